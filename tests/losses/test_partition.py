"""Classes divided over two and three processes against one process that holds them all, in PyTorch and by kernels.

This file is also the program of the processes: they run every case once and save what they got; the tests compare.
"""

import functools
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from wespeaker_qm.losses import dispatch, fused_filter
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.heads import QMarginHead
from wespeaker_qm.losses.linear import alpha_margin_linear
from wespeaker_qm.losses.margins import MarginType
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.losses.prototype_sgd import PrototypeSGD

WORLD_SIZES = (3, 2)
BATCH, DIM = 5, 12  # of each process

ROWS = torch.arange(14, dtype=torch.float64).view(7, 2) / 3

Output = dict[str, Any]
"""What one process got: loss, correct, sparsity, gradients, whether the weight's gradient was sparse, collectives."""


class Head(NamedTuple):
    """Arguments of `alpha_margin_linear`."""

    alpha: float
    scale: float
    margin: float
    margin_type: MarginType = "reference"


HEADS = {
    "cosface": Head(1.0, 32.0, 0.2),
    "arcface": Head(1.0, 32.0, 0.2, "angular"),
    "arcface_easy": Head(1.0, 32.0, 0.2, "easy_angular"),
    "q_margin_1.25": Head(1.25, 32.0, 0.1),
    "q_margin_1.5": Head(1.5, 20.0, 0.1),
    "q_margin_1.75": Head(1.75, 10.0, 0.1),
    "q_margin_2": Head(2.0, 10.0, 0.1),
    "entmax_1.75": Head(1.75, 10.0, 0.1, "angular"),
    "sparsemax": Head(2.0, 10.0, 0.2, "angular"),
}
DENSE, SPARSE, KERNELS = Way.DENSE, Way.FILTERED, Way.FUSED_FILTER
COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "gather", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send",
)  # fmt: skip
SMALL = {"_GROUP": 8, "PLACES": 16, "_BLOCK_CLASSES": 32, "_PAIRS": 8, "_PROGRAMS": 1}
"""Groups, places and blocks of kernels, so that few classes have several of each."""


class Case(NamedTuple):
    """One call by all processes."""

    head: Head
    num_classes: int
    ways: tuple[Way, ...] = (DENSE,)  # of each process; the last one's for the rest
    dtype: torch.dtype = torch.float64
    sparse_gradient: bool = False
    variant: str = ""


def cases() -> dict[str, Case]:
    """By name; see `make_batch` for the variants."""
    found = {}
    for name, head in HEADS.items():
        for num_classes in (7, 50, 3001) if name == "q_margin_1.5" else (7, 3001):
            for dtype in (torch.float64, torch.float32) if num_classes == 3001 else (torch.float64,):
                key = f"{name}-{num_classes}-{str(dtype)[6:]}"
                found[f"{key}-dense"] = Case(head, num_classes, (DENSE,), dtype)
                if head.alpha > 1:
                    found[f"{key}-sparse"] = Case(head, num_classes, (SPARSE,), dtype, num_classes > 7)
    for name in ("q_margin_1.25", "q_margin_1.5", "entmax_1.75", "sparsemax"):
        found[f"{name}-kernels"] = Case(HEADS[name], 61, (KERNELS,), torch.float32)
    for variant in ("far_classes", "crowded", "nan_prototype", "nan_embedding", "norms", "ties"):
        case = Case(HEADS["q_margin_1.5"], 60, (KERNELS,), torch.float32, variant=variant)
        found[f"q_margin_1.5-{variant}-kernels"] = case
    for name in ("cosface", "q_margin_1.5", "sparsemax"):
        head = HEADS[name]
        for mode, ways in (("dense", (DENSE,)), ("sparse", (SPARSE,)), ("mixed", (DENSE, SPARSE))):
            for variant in ("one_owner", "far_classes", "crowded", "nan_prototype", "nan_embedding", "empty"):
                found[f"{name}-{variant}-{mode}"] = Case(head, 300, ways, variant=variant)
            for variant in ("norms", "ties"):
                found[f"{name}-{variant}-{mode}"] = Case(head, 300, ways, torch.float32, variant=variant)
    return found


CASES = cases()
GROUPED = "q_margin_1.5-3001-float64-sparse"  # what the last two of three processes compute alone


class Batch(NamedTuple):
    """Everything of all processes: embeddings, targets, prototypes, and what arrives at the losses in backward."""

    embedding: Tensor
    target: Tensor
    prototypes: Tensor
    upstream: Tensor


def make_batch(case: Case, world_size: int) -> Batch:
    """The same in every process: embeddings between their prototype and noise, of many norms.

    one_owner: all targets are classes of the last process. far_classes: so, and the other classes lie opposite.
    crowded: the classes of the first process lie where all embeddings do, and are all candidates; others lie opposite.
    nan_prototype: the last class has a NaN. nan_embedding: embedding 3 has one. empty: no embeddings. norms: one
    embedding is tiny and the last classes are huge. ties: every prototype is there twice, far apart.
    """
    generator = torch.Generator().manual_seed(case.num_classes + world_size)
    total = 0 if case.variant == "empty" else world_size * BATCH
    last = ClassPartition(case.num_classes, world_size - 1, world_size)
    first_target = last.start if case.variant in ("one_owner", "far_classes") else 0
    target = torch.randint(first_target, case.num_classes, (total,), generator=generator)
    prototypes = torch.randn(case.num_classes, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(total, DIM, generator=generator, dtype=torch.float64)
    embedding = prototypes[target] + torch.linspace(0.2, 3, total)[:, None] * noise
    if case.variant == "far_classes":
        embedding = embedding.abs() + 0.1
        prototypes[: last.start] = -prototypes[: last.start].abs() - 0.1
        prototypes[last.start :].abs_()
    if case.variant == "crowded":
        embedding = embedding.abs() + 3
        prototypes = -prototypes.abs() - 0.1
        first = ClassPartition(case.num_classes, 0, world_size).stop
        prototypes[:first] = 3 - 0.01 * prototypes[:first]
    if case.variant == "ties":
        half = case.num_classes // 2
        prototypes[half:] = prototypes[:half]
        embedding = 4 * prototypes[target] + noise
    prototypes *= torch.rand(case.num_classes, 1, generator=generator) + 0.5
    if case.variant == "norms":
        embedding[1] *= 1e-35
        prototypes[last.start + 3 :] *= 1e30
    upstream = torch.randn(total, generator=generator, dtype=torch.float64)
    if case.variant == "nan_prototype":
        prototypes[-1, 0] = torch.nan
    if case.variant == "nan_embedding":
        embedding[3, 1] = torch.nan
    return Batch(embedding.to(case.dtype), target, prototypes.to(case.dtype), upstream.to(case.dtype))


def _noted(names: list[str], name: str, run: Callable[..., Any], *args: Any, **options: Any) -> Any:
    names.append(name)
    return run(*args, **options)


@contextmanager
def collectives() -> Iterator[list[str]]:
    """Gives the names of what the processes do together, in their order."""
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in COLLECTIVES:
            patch.setattr(dist, name, functools.partial(_noted, names, name, getattr(dist, name)))
        yield names


def compute(case: Case, batch: Batch, partition: ClassPartition) -> Output:
    """The call of one process, and its backward pass. Kernels of several processes share a GPU, if there is one."""
    is_on_gpu = case.ways == (KERNELS,) and partition.world_size > 1 and torch.cuda.is_available()
    batch = Batch(*(part.to("cuda" if is_on_gpu else "cpu") for part in batch))
    own = slice(partition.rank * BATCH, (partition.rank + 1) * BATCH) if partition.world_size > 1 else slice(None)
    embedding = batch.embedding[own].clone().requires_grad_()
    prototypes = batch.prototypes[partition.start : partition.stop].clone().requires_grad_()
    alpha, scale, margin, margin_type = case.head
    with collectives() as forward:
        output = alpha_margin_linear(
            embedding,
            prototypes,
            batch.target[own],
            alpha,
            scale,
            margin,
            margin_type=margin_type,
            sparse_gradient=case.sparse_gradient,
            partition=partition,
        )
    with collectives() as backward:
        gradients = torch.autograd.grad(output.loss, (embedding, prototypes), batch.upstream[own])
    is_sparse = gradients[1].is_sparse and gradients[1].is_coalesced()
    tensors = {
        "loss": output.loss.detach(),
        "correct": output.correct,
        **(output.sparsity._asdict() if output.sparsity else {}),
        "embedding_gradient": gradients[0],
        "weight_gradient": gradients[1].to_dense(),
    }
    return {
        **{name: tensor.cpu() for name, tensor in tensors.items()},
        "is_sparse": is_sparse,
        "collectives": [forward, backward],
    }


def trained(partition: ClassPartition, num_steps: int, *, are_kept: bool) -> Tensor:
    """The prototypes of this process after some steps, of SGD or of what keeps something of them."""
    torch.manual_seed(4)
    head = QMarginHead(DIM, partition.num_classes, scale=20.0, alpha=1.75, partition=partition)
    optimizer: torch.optim.Optimizer = torch.optim.SGD([head.weight], lr=0.03, momentum=0.9, weight_decay=1e-2)
    if are_kept:
        optimizer = PrototypeSGD([head.weight], head, lr=0.03, momentum=0.9, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(6)
    for _ in range(num_steps):
        embedding = torch.randn(6, DIM, generator=generator)
        target = torch.randint(partition.num_classes, (6,), generator=generator)
        own = slice(partition.rank, None, partition.world_size)
        head.weight.grad = None
        head(embedding[own], target[own], 0.1).loss.mean().backward()
        optimizer.step()
    return head.state_dict()["weight"]


def run_process(rank: int, folder: Path) -> None:
    """The program of process ``rank``: all cases for each number of processes, saved in ``folder``."""
    torch.set_num_threads(1)
    for world_size in WORLD_SIZES:
        if rank >= world_size:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store{world_size}", rank=rank, world_size=world_size
        )
        results: dict[str, Any] = {}
        for name, case in CASES.items():
            way = case.ways[min(rank, len(case.ways) - 1)]
            dispatch.WAYS = dict.fromkeys(("cpu", "cuda"), ((math.inf, way),))
            for size, value in SMALL.items():
                setattr(fused_filter, size, value)
            partition = ClassPartition(case.num_classes, rank, world_size)
            results[name] = compute(case, make_batch(case, world_size), partition)
        partition = ClassPartition(7, rank, world_size)
        results["gathered"] = partition.gather_classes(partition.own_classes(ROWS), block_rows=2)
        inf, nan = torch.inf, torch.nan
        results["largest"] = partition.max(
            torch.tensor([inf if rank == 0 else 0, -inf, nan if rank == 1 else inf, rank])
        )
        rows = 100 * rank + torch.arange(2 * world_size)
        results["exchanged"] = partition.exchange(rows)
        results["summed"] = partition.sum_own_rows(rows)
        dispatch.WAYS = {"cpu": ((math.inf, SPARSE),)}
        results["lazy"] = trained(ClassPartition(600, rank, world_size), 12, are_kept=True)
        dispatch.WAYS = dict.fromkeys(("cpu", "cuda"), ((math.inf, KERNELS),))
        results["device"] = trained(ClassPartition(36, rank, world_size), 3, are_kept=True)
        last_two = dist.new_group([1, 2]) if world_size == 3 else None
        if last_two is not None and rank > 0:
            case = CASES[GROUPED]
            dispatch.WAYS = {"cpu": ((math.inf, case.ways[0]),)}
            partition = ClassPartition(case.num_classes, rank - 1, 2, last_two)
            results["grouped"] = compute(case, make_batch(case, 2), partition)
            results["grouped_rows"] = partition.gather_classes(partition.own_classes(torch.arange(case.num_classes)))
        torch.save(results, folder / f"{world_size}.{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """World size -> what each process saved."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    programs = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
        for rank in range(max(WORLD_SIZES))
    ]
    try:
        assert [program.wait(timeout=900) for program in programs] == [0] * len(programs)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    return {
        world_size: [torch.load(folder / f"{world_size}.{rank}.pt") for rank in range(world_size)]
        for world_size in WORLD_SIZES
    }


def alone(case: Case, world_size: int) -> Output:
    """One process with everything; its gradient of the prototypes is a sum, that of partition a mean over processes.

    In the precision of the case, or where that is computed by kernels in float64.
    """
    batch = make_batch(case, world_size)
    if case.ways == (KERNELS,):
        batch = Batch(*(part.double() if part.is_floating_point() else part for part in batch))
    output = compute(case, batch, ClassPartition(case.num_classes))
    output["weight_gradient"] /= world_size
    return output


def together(name: str, found: list[dict[str, Any]]) -> Output:
    """The parts of all processes, one after the other."""
    parts = [results[name] for results in found]
    assert len({part["is_sparse"] for part in parts}) == 1
    assert all(part["collectives"] == parts[0]["collectives"] for part in parts)
    plain = ("is_sparse", "collectives")
    tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0] if key not in plain}
    return tensors | {key: parts[0][key] for key in plain}


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Equal up to round-off of the largest value, NaN where NaN is."""
    tolerance = 1e-12 if actual.dtype == torch.float64 else 2e-6 if expected.dtype == torch.float32 else 4e-6
    actual = actual.to(expected)
    largest = max(1.0, float(expected.nan_to_num().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * largest, equal_nan=True)


several = pytest.mark.parametrize("world_size", WORLD_SIZES)
HEADS_AND_MODES = [
    *itertools.product(("cosface", "q_margin_1.5", "sparsemax"), ("dense", "sparse", "mixed")),
    ("q_margin_1.5", "kernels"),
]


@several
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.variant.startswith("nan")])
def test_parts_compute_what_one_process_does(
    name: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    case = CASES[name]
    actual, expected = together(name, outputs[world_size]), alone(case, world_size)
    for key in ("loss", "embedding_gradient", "weight_gradient"):
        assert_near(actual[key], expected[key])
    if (case.variant, *case.ways) != ("ties", KERNELS):  # ties of float32 are none in float64
        assert torch.equal(actual["correct"], expected["correct"])
    if case.head.alpha == 1:
        assert "support" not in actual
        return
    assert_near(actual["target_posterior"], expected["target_posterior"])
    assert torch.equal(actual["support"], expected["support"].to(actual["support"]))
    assert (actual["candidates"] >= actual["support"]).all()
    assert (actual["candidates"] <= case.num_classes).all()
    if case.ways == (DENSE,):
        assert (actual["candidates"] == case.num_classes).all()


@several
@pytest.mark.parametrize(("head", "mode"), HEADS_AND_MODES)
def test_ties_with_classes_of_other_processes_are_correct(
    head: str, mode: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    assert together(f"{head}-ties-{mode}", outputs[world_size])["correct"].all()


@several
def test_sparse_parts_are_sparse(world_size: int, outputs: dict[int, list[dict[str, Any]]]) -> None:
    """The cases above are no test of the filter if it gives up."""
    for name in ("q_margin_1.5-3001-float64-sparse", "sparsemax-3001-float32-sparse"):
        actual = together(name, outputs[world_size])
        assert actual["is_sparse"]
        assert (actual["candidates"] < 1000).all()


@several
@pytest.mark.parametrize(
    "name",
    [name for name in CASES if name.endswith("sparse") and "-3001-" in name]
    + [name for name in CASES if name.endswith("kernels") and "crowded" not in name],
)
def test_candidates_are_exchanged_in_six_collectives(
    name: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    """Embeddings, cosines of the targets, the largest number of candidates, candidates; gradients back and forth."""
    forward, backward = together(name, outputs[world_size])["collectives"]
    assert forward == ["all_gather", "all_reduce", "all_reduce", "all_to_all_single"]
    assert backward == ["all_to_all_single", "reduce_scatter"]


@several
@pytest.mark.parametrize("name", ["q_margin_1.5-crowded-sparse", "sparsemax-crowded-sparse", "sparsemax-ties-mixed"])
def test_where_one_process_has_too_many_candidates_all_find_the_roots_together(
    name: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    """That the results are right is tested above."""
    forward, backward = together(name, outputs[world_size])["collectives"]
    assert "all_to_all_single" not in backward
    assert forward.count("all_reduce") > 4


@several
@pytest.mark.parametrize("head", ["q_margin_1.5", "sparsemax"])
def test_candidates_are_counted_once(head: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]) -> None:
    """The first process, dense, counts all of its classes; the others' are candidates only where they matter."""
    dense = ClassPartition(300, 0, world_size).stop
    actual = together(f"{head}-far_classes-mixed", outputs[world_size])
    sparse = together(f"{head}-far_classes-sparse", outputs[world_size])
    assert (sparse["candidates"] < dense).all()
    expected = dense + sparse["candidates"]
    assert torch.equal(actual["candidates"], expected)


@several
@pytest.mark.parametrize(("head", "mode"), HEADS_AND_MODES)
def test_a_nan_prototype_of_one_process_spoils_all_losses(
    head: str, mode: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    actual = together(f"{head}-nan_prototype-{mode}", outputs[world_size])
    assert actual["loss"].isnan().all()


@several
@pytest.mark.parametrize(("head", "mode"), HEADS_AND_MODES)
def test_a_nan_embedding_of_one_process_spoils_its_own_loss(
    head: str, mode: str, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    name = f"{head}-nan_embedding-{mode}"
    actual, expected = together(name, outputs[world_size]), alone(CASES[name], world_size)
    assert actual["loss"].isnan().nonzero().tolist() == [[3]]
    good = torch.arange(world_size * BATCH) != 3
    assert_near(actual["loss"][good], expected["loss"][good])
    assert_near(actual["embedding_gradient"][good], expected["embedding_gradient"][good])


@several
def test_the_first_process_gathers_the_rows_of_all_classes(
    world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    first, *others = [results["gathered"] for results in outputs[world_size]]
    assert torch.equal(first, ROWS)
    assert others == [None] * (world_size - 1)


@several
def test_the_largest_may_be_infinite_and_a_nan_is_never_lost(
    world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    expected = torch.tensor([torch.inf, -torch.inf, torch.nan, world_size - 1])
    for results in outputs[world_size]:
        torch.testing.assert_close(results["largest"], expected, rtol=0, atol=0, equal_nan=True)


@several
def test_rows_go_to_the_process_that_they_concern(world_size: int, outputs: dict[int, list[dict[str, Any]]]) -> None:
    for rank, results in enumerate(outputs[world_size]):
        expected = 100 * torch.arange(world_size)[:, None] + torch.tensor([2 * rank, 2 * rank + 1])
        assert torch.equal(results["exchanged"], expected)
        assert torch.equal(results["summed"], expected.sum(0))


def test_some_of_the_processes_may_hold_the_classes(outputs: dict[int, list[dict[str, Any]]]) -> None:
    _, *found = outputs[3]
    actual, expected = together("grouped", found), alone(CASES[GROUPED], 2)
    for key in ("loss", "embedding_gradient", "weight_gradient"):
        assert_near(actual[key], expected[key])
    assert torch.equal(found[0]["grouped_rows"], torch.arange(3001))
    assert found[1]["grouped_rows"] is None


@several
@pytest.mark.parametrize(("kept", "num_classes", "num_steps"), [("lazy", 600, 12), ("device", 36, 3)])
def test_kept_rows_are_those_of_one_process(
    kept: str, num_classes: int, num_steps: int, world_size: int, outputs: dict[int, list[dict[str, Any]]]
) -> None:
    parts = torch.cat([results[kept] for results in outputs[world_size]])
    alone = trained(ClassPartition(num_classes), num_steps, are_kept=False)
    torch.testing.assert_close(parts, alone, rtol=1e-4, atol=1e-5)


def test_alone_every_operation_is_free() -> None:
    partition = ClassPartition(7)
    assert (partition.start, partition.stop) == (0, 7)
    free = (
        partition.gather_rows, partition.own_rows, partition.sum, partition.sum_own_rows, partition.max,
        partition.gather_classes,
    )  # fmt: skip
    assert all(operation(ROWS) is ROWS for operation in free)
    assert torch.equal(partition.own_classes(ROWS), ROWS)


def test_parts_are_contiguous_and_differ_by_one_class_at_most() -> None:
    parts = [ClassPartition(8, rank, 3) for rank in range(3)]
    assert [(part.start, part.stop) for part in parts] == [(0, 3), (3, 6), (6, 8)]
    with pytest.raises(ValueError, match="found 2 classes, expected at least one for each of 3"):
        ClassPartition(2, 0, 3)


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
