"""The losses on a GPU as it is: through the table of ways, at sizes that take each, beside float64 and beside PyTorch.

Where there is none, these are skipped; the kernels themselves are tested in the interpreter (`test_fused_*`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from loss_and_gradients import Found, compute
from torch import Tensor, nn
from torch.nn import functional as F

from wespeaker_qm.bench.cases import Case, simulate
from wespeaker_qm.losses import fused_filter
from wespeaker_qm.losses.dispatch import Way, way_of
from wespeaker_qm.losses.heads import QMarginHead
from wespeaker_qm.losses.linear import alpha_margin_linear

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    # What PyTorch says of itself: of its compiler, of the mode in which waiting is an error, and of captured leaves.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning"),
]

ROWS, FILTER = 3001, 70_001  # classes, of which each is computed in one of the ways of a GPU
LOSSES = [(1.05, 60, 0.1), (1.25, 35, 0.2), (1.5, 10, 0.1), (1.6, 10, 0.1), (1.75, 5, 0.1), (2, 5, 0.1)]


def problem(batch: int, dim: int, num_classes: int, *, trained: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    found = simulate(Case(batch, dim, num_classes, 1, 1, 0, trained=trained))
    return tuple(tensor.detach().cuda() for tensor in found)  # type: ignore[return-value]


def assert_as_in_float64(
    inputs: tuple[Any, ...], tolerance: float = 2e-6, on_threshold: int = 0, **options: Any
) -> Found:
    """Loss, sparsity and gradients, as PyTorch computes them in float64 on the CPU, and accuracy, as in float32.

    ``tolerance`` is that of gradients, up to a scale of 35: of round-off in cosines, s times as much is in logits.
    ``on_threshold``: classes of a row that are so close to it that float32 may have them on the other side.
    """
    embedding, prototypes, target, *settings = inputs
    actual = compute(*inputs, **options)
    expected = compute(embedding.cpu().double(), prototypes.cpu().double(), target.cpu(), *settings, **options)
    in_float32 = compute(embedding.cpu(), prototypes.cpu(), target.cpu(), *settings, **options)
    torch.testing.assert_close(actual.output.loss.cpu().double(), expected.output.loss, rtol=3e-6, atol=3e-6)
    assert torch.equal(actual.output.correct.cpu(), in_float32.output.correct)
    for value, wanted in zip(actual[1:], expected[1:], strict=True):
        error = (value.cpu() - wanted).norm() / max(wanted.norm().item(), 1e-3)
        assert error <= tolerance * max(1.0, settings[1] / 35), f"gradients have an error of {error}"
    sparsity, wanted_sparsity = actual.output.sparsity, expected.output.sparsity
    assert (sparsity is None) == (wanted_sparsity is None)
    if sparsity is not None and wanted_sparsity is not None:
        apart = (sparsity.support.cpu().double() - wanted_sparsity.support).abs().max()
        assert apart <= on_threshold, f"{apart} classes more or less in a support"
        assert (sparsity.candidates >= sparsity.support).all()
    return actual


def test_the_sizes_take_the_ways_of_a_gpu() -> None:
    device = torch.device("cuda")
    assert [way_of(device, size) for size in (ROWS, FILTER)] == [Way.FUSED_ROWS, Way.FUSED_FILTER]


@pytest.mark.parametrize("num_classes", [ROWS, FILTER])
@pytest.mark.parametrize(("kind", "trained"), [("reference", True), ("angular", False), ("easy_angular", True)])
@pytest.mark.parametrize(("alpha", "scale", "margin"), [(1, 32, 0.2), *LOSSES])
def test_the_loss_is_that_of_float64(
    alpha: float, scale: float, margin: float, kind: Any, trained: bool, num_classes: int
) -> None:
    inputs = (*problem(16, 64, num_classes, trained=trained), alpha, scale, margin)
    assert_as_in_float64(inputs, 2e-6 if kind == "reference" else 4e-6, margin_type=kind)


@pytest.mark.parametrize(
    ("batch", "dim", "num_classes"), [(1, 1, 1), (3, 5, 127), (130, 192, 1025), (257, 256, 5994), (5, 33, 65_537)]
)
def test_sizes_that_fill_no_block(batch: int, dim: int, num_classes: int) -> None:
    embedding, prototypes, target = problem(batch, dim, num_classes)
    assert_as_in_float64((embedding + 0.01, prototypes, target, 1.5, 20.0, 0.1), 1e-5 if dim == 1 else 2e-6)


@pytest.mark.parametrize("num_classes", [ROWS, FILTER])
def test_ties_and_solved_and_dropped_targets(num_classes: int) -> None:
    """Every prototype several times, at other norms; on the target, on another class, between two."""
    directions = F.normalize(torch.randn(1000, 64, device="cuda"))
    prototypes = torch.cat([(1 + number) * directions for number in range(num_classes // 1000)])
    embedding = torch.stack([directions[0], directions[1], directions[2] + directions[3]])
    target = torch.tensor([1000, 7, 2002], device="cuda")
    output = assert_as_in_float64((embedding, prototypes, target, 1.5, 20.0, 0.0), 4e-6).output
    assert output.correct.tolist() == [True, False, True]


@pytest.mark.parametrize("num_classes", [ROWS, FILTER])
@pytest.mark.parametrize("spacing", [1e-5, 1e-4])
def test_classes_close_to_the_threshold(spacing: float, num_classes: int) -> None:
    """A thousand cosines so close together that half precision has them in any order; the threshold is among them."""
    embedding, prototypes, target = problem(2, 64, num_classes)
    unit = F.normalize(embedding.double())
    for row in range(2):
        across = torch.randn(1000, 64, device="cuda", dtype=torch.float64)
        across = F.normalize(across - (across @ unit[row])[:, None] * unit[row])
        cosine = 0.75 - spacing * torch.randperm(1000, device="cuda")[:, None]
        where = torch.arange(1000, device="cuda") + 1000 * row
        prototypes[where] = (cosine * unit[row] + (1 - cosine.square()).sqrt() * across).float()
    target = torch.tensor([2500, 2501], device="cuda")
    # Of a hundred nearly equal logits, whose shares are small, float32 gives gradients with an error of 3e-6.
    output = assert_as_in_float64((embedding, prototypes, target, 1.5, 60.0, 0.0), 5e-6, on_threshold=1).output
    assert output.sparsity is not None
    assert ((output.sparsity.support > 3) & (output.sparsity.support < 1001)).all()


@pytest.mark.parametrize("alpha", [1.5, 1.6])
def test_rows_with_more_candidates_than_places(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_filter, "PLACES", 16)
    embedding, prototypes, target = problem(16, 64, FILTER)
    embedding[::3] = prototypes[target[::3]]
    output = assert_as_in_float64((embedding, prototypes, target, alpha, 10.0, 0.1)).output
    assert output.sparsity is not None
    assert (output.sparsity.candidates > 16).any() and (output.sparsity.candidates <= 16).any()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Also on the GPU, and where these tests are run without those of other folders."""
    torch.manual_seed(0)


@pytest.fixture
def no_waiting() -> Iterator[Any]:
    """Set: from here on, what waits for the device is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


SETTINGS = [(1.0, 32.0, 0.2, ROWS), (1.5, 20.0, 0.1, ROWS), (1.5, 20.0, 0.1, FILTER)]
settings = pytest.mark.parametrize(("alpha", "scale", "margin", "num_classes"), SETTINGS)


@settings
def test_nothing_waits_for_the_device(
    alpha: float, scale: float, margin: float, num_classes: int, no_waiting: Any
) -> None:
    inputs = (*problem(16, 64, num_classes), alpha, scale, margin)
    upstream = torch.linspace(0.5, 1.5, 16, device="cuda")
    leaves = [leaf.requires_grad_() for leaf in inputs[:2]]

    def step() -> None:
        loss = alpha_margin_linear(*inputs).loss
        torch.autograd.grad(loss, leaves, upstream)

    step()  # compiles
    no_waiting()
    step()


@settings
def test_a_cuda_graph_computes_what_its_inputs_are_then(
    alpha: float, scale: float, margin: float, num_classes: int
) -> None:
    embedding, prototypes, target = problem(16, 64, num_classes)
    leaves = (embedding.requires_grad_(), prototypes.requires_grad_())

    def step() -> tuple[Tensor, ...]:
        loss = alpha_margin_linear(*leaves, target, alpha, scale, margin).loss
        return loss, *torch.autograd.grad(loss.sum(), leaves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        embedding.copy_(embedding.roll(1, 0) + prototypes[target])
        prototypes.mul_(1.5)
        target.copy_((target + 17) % num_classes)
    graph.replay()
    replayed = [tensor.clone() for tensor in captured]
    assert all(torch.equal(*pair) for pair in zip(replayed, step(), strict=True))


@settings
def test_the_same_bits_each_time(alpha: float, scale: float, margin: float, num_classes: int) -> None:
    inputs = (*problem(130, 64, num_classes), alpha, scale, margin)
    first, *others = (compute(*inputs) for _ in range(4))
    for other in others:
        assert torch.equal(first.output.loss, other.output.loss)
        assert all(torch.equal(*pair) for pair in zip(first[1:], other[1:], strict=True))


@settings
def test_a_compiled_head_is_one_graph_and_the_same(alpha: float, scale: float, margin: float, num_classes: int) -> None:
    embedding, prototypes, target = problem(16, 64, num_classes)
    head = head_of(prototypes, alpha, scale)
    results = []
    for function in (head, torch.compile(head, fullgraph=True, dynamic=False)):
        leaf = embedding.clone().requires_grad_()
        loss = function(leaf, target, margin).loss
        results.append((loss, *torch.autograd.grad(loss.sum(), (leaf, head.weight))))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def head_of(prototypes: Tensor, alpha: float, scale: float) -> QMarginHead:
    num_classes, dim = prototypes.shape
    head = QMarginHead(embed_dim=dim, num_classes=num_classes, alpha=alpha, scale=scale).cuda()
    with torch.no_grad():
        head.weight.copy_(prototypes)
    return head


@settings
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_amp_it_is_the_loss_of_the_rounded_embeddings(
    dtype: torch.dtype, alpha: float, scale: float, margin: float, num_classes: int
) -> None:
    embedding, prototypes, target = problem(16, 64, num_classes)
    head, layer = head_of(prototypes, alpha, scale), nn.Linear(64, 64, device="cuda")
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    optimiser = torch.optim.SGD([*layer.parameters(), *head.parameters()], lr=0.1)
    before = head.weight.detach().clone()
    with torch.autocast("cuda", dtype):
        rounded = layer(embedding)
        loss = head(rounded, target, margin).loss
    assert rounded.dtype == dtype and loss.dtype == torch.float32
    scaler.scale(loss.mean()).backward()
    scaler.step(optimiser)
    scaler.update()
    leaf = prototypes.clone().requires_grad_()
    expected = alpha_margin_linear(rounded.detach().float(), leaf, target, alpha, scale, margin).loss
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(expected.mean(), leaf)
    torch.testing.assert_close(head.weight, before - 0.1 * gradient, rtol=1e-6, atol=1e-7)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


@settings
def test_in_distributed_data_parallel(
    alpha: float, scale: float, margin: float, num_classes: int, tmp_path: Path
) -> None:
    embedding, prototypes, target = problem(16, 64, num_classes)
    head = head_of(prototypes, alpha, scale)
    expected = torch.autograd.grad(head(embedding, target, margin).loss.mean(), head.weight)[0]
    backend = "nccl" if dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(head, device_ids=[0], gradient_as_bucket_view=True)
        wrapped(embedding, target, margin).loss.mean().backward()
    finally:
        dist.destroy_process_group()
    assert head.weight.grad is not None and torch.equal(head.weight.grad, expected)
