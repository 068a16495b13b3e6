"""An update: decided on the device, read one step late, and not made where anything is not finite."""

import dataclasses
import itertools
import multiprocessing
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from wespeaker_qm.bench.train import operations_noted
from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.train import build
from wespeaker_qm.train.build import build_optimizer, build_scaler, build_training
from wespeaker_qm.train.distributed import ALONE, Processes
from wespeaker_qm.train.loop import MOST_SKIPPED, NonFiniteLossError, Trainer
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.train.update import Updater, gradient_norm
from wespeaker_qm.utils.ending import Stopped
from wespeaker_qm.utils.layout import DataFolder, RunFolder

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "_unique2", "unique_consecutive", "masked_select")
"""Operations for whose result a host waits, wherever the device is not the host itself."""


def waits(operations: list[str]) -> list[str]:
    return [name for name in operations if name in WAITS]


def fused(config: Config, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a GPU, which the CPU has, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_FUSED_FROM", {"cpu": 0})
        return build_optimizer(config, list(parameters))


class Poisoned:
    """A loader, one of whose batches, counted from 0 over all epochs, has features that are not finite."""

    def __init__(self, loader: Iterable[TrainingBatch], bad: int) -> None:
        self.loader, self.bad, self.number = loader, bad, 0

    def __iter__(self) -> Iterator[TrainingBatch]:
        for batch in self.loader:
            if self.number == self.bad:
                batch.features[3] = torch.nan
            self.number += 1
            yield batch


def trainer(config: Config, corpus: Path, folder: Path, is_fused: bool, bad: int = -1) -> Trainer:
    parts = build_training(config, DataFolder(corpus), ALONE)
    if is_fused:
        parts.optimizer = fused(config, parts.model.parameters())
    parts.loader = Poisoned(parts.loader, bad)
    return Trainer(config, parts, RunFolder(folder))


def modest_scaler(config: Config) -> torch.amp.GradScaler:
    """One whose first steps are made."""
    return torch.amp.GradScaler("cpu", init_scale=2.0, enabled=build_scaler(config, ALONE.device).is_enabled())


PRECISIONS = [{}, {"enable_amp": True, "amp_dtype": "bf16"}, {"enable_amp": True}]
PRECISION_NAMES = ["float32", "bf16", "fp16"]


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("settings", PRECISIONS, ids=PRECISION_NAMES)
def test_from_the_first_batch_that_is_not_finite_on_no_weight_changes(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, settings: dict[str, Any], is_fused: bool
) -> None:
    """The batch after it, which is under way when the host learns of it, is sound and changes nothing either."""
    config = dataclasses.replace(tiny_config, valid_epoch_interval=0, **settings)
    straight = trainer(config, tiny_corpus, tmp_path / "straight", is_fused)
    straight.parts.scaler = modest_scaler(config)
    weights: list[list[torch.Tensor]] = []
    step = straight._step

    def noting(index: int, batch: TrainingBatch) -> None:
        weights.append([each.detach().clone() for each in straight.parts.model.parameters()])
        step(index, batch)

    straight._step = noting  # type: ignore[method-assign]
    straight.run()
    assert not torch.equal(weights[4][0], weights[5][0])

    run = trainer(config, tiny_corpus, tmp_path / "bad", is_fused, bad=4)
    run.parts.scaler = modest_scaler(config)
    with pytest.raises(NonFiniteLossError, match=r"step 4 \(epoch 2\): the loss of \d of 8 utterances .* No update"):
        run.run()
    for found, expected in zip(run.parts.model.parameters(), weights[4], strict=True):
        assert torch.equal(found, expected)


class Steep(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * torch.inf


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_gradients_that_are_not_finite_change_nothing_though_the_loss_is(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, is_fused: bool
) -> None:
    run = trainer(tiny_config, tiny_corpus, tmp_path, is_fused)
    head = run.parts.model.projection.forward
    run.parts.model.projection.forward = lambda embedding, *rest: head(Steep.apply(embedding), *rest)
    before = [each.detach().clone() for each in run.parts.model.parameters()]
    with pytest.raises(
        NonFiniteLossError, match=r"step 0 .*the gradients are not finite, though .* No update was made"
    ):
        run.run()
    for found, expected in zip(run.parts.model.parameters(), before, strict=True):
        assert torch.equal(found, expected)


def steep(run: Trainer, first: int = 0) -> Trainer:
    """A trainer whose gradients are not finite from an update on."""
    head = run.parts.model.projection.forward

    def forward(embedding: torch.Tensor, *rest: Any) -> LinearLoss:
        return head(Steep.apply(embedding) if run.step >= first else embedding, *rest)

    run.parts.model.projection.forward = forward
    return run


def fp16_for(config: Config, num_epochs: int) -> Config:
    """So many epochs of three updates."""
    return dataclasses.replace(load_fp16(config), num_epochs=num_epochs, valid_epoch_interval=0, save_minutes=0.0)


@pytest.mark.parametrize(("init_scale", "made"), [(2.0, 4), (65536.0, 0), (1e-44, 0)])
def test_a_scaled_loss_whose_gradients_stay_not_finite_ends_the_training(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, init_scale: float, made: int
) -> None:
    """Also with a scale that has fallen to nothing."""
    config = fp16_for(tiny_config, num_epochs=20)
    run = steep(trainer(config, tiny_corpus, tmp_path, is_fused=False), first=made)
    run.parts.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    number = f"the last {MOST_SKIPPED}" if made else "all"
    last = made + MOST_SKIPPED - 1
    with pytest.raises(
        NonFiniteLossError,
        match=rf"step {last} \(epoch {last // 3 + 1}\): the gradients of {number} updates were not fin.* No update was"
        rf".*; the last state is in .*step_{last - last % 3}\.pt\. .* enable_amp=false, into another --exp_dir",
    ):
        run.run()


def test_a_training_without_one_update_has_not_trained(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    """Though it was too short for so many; also when it was ended between, and gone on with."""
    config = fp16_for(tiny_config, num_epochs=2)
    run = steep(trainer(config, tiny_corpus, tmp_path, is_fused=False))
    run.stop.note(15)
    with pytest.raises(Stopped):
        run.run()
    again = steep(trainer(config, tiny_corpus, tmp_path, is_fused=False))
    again.resume()
    assert 0 < again.step == again.skipped < 6
    with pytest.raises(NonFiniteLossError, match=r"step 5 .*the gradients of all updates .* Train for more steps, or"):
        again.run()
    assert not RunFolder(tmp_path).model(2).exists()


def test_a_scaled_loss_may_do_without_some_updates(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    """As it does at the beginning, until the scale has come down."""
    run = trainer(fp16_for(tiny_config, num_epochs=14), tiny_corpus, tmp_path, is_fused=False)
    run.parts.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    head = run.parts.model.projection.forward
    run.parts.model.projection.forward = lambda embedding, *rest: head(
        embedding if run.step in (MOST_SKIPPED - 1, 41) else Steep.apply(embedding), *rest
    )
    run.run()
    assert RunFolder(tmp_path).model(14).is_file()


@pytest.mark.parametrize("skipped", [0, 2])
def test_a_fused_optimiser_begins_as_one_that_is_not(tiny_config: Config, skipped: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    plain, fused_one = build_optimizer(tiny_config, [weights[0]]), fused(tiny_config, [weights[1]])
    for number in range(skipped + 3):
        gradient = torch.randn(50, generator=generator)
        for weight in weights:
            weight.grad = gradient.clone()
        fused_one.found_inf = torch.tensor(float(number < skipped))  # type: ignore[attr-defined]
        fused_one.step()
        if number >= skipped:
            plain.step()
        torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=0)


def test_on_the_cpu_the_optimiser_is_not_fused(tiny_config: Config) -> None:
    """Its sums are rounded otherwise."""
    assert not build_optimizer(tiny_config, [nn.Parameter(torch.ones(1))]).param_groups[0]["fused"]


class Free(CosineHead):
    """A head that costs nothing, so that what is counted is the step around it."""

    def __init__(self) -> None:
        super().__init__(8, 5, scale=1.0)
        nn.init.ones_(self.weight)

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, margin: float) -> LinearLoss:
        loss = (embedding - self.weight[0]).square().sum(dim=1)
        return LinearLoss(loss, loss.detach() < 1, None)


@pytest.mark.parametrize(
    ("settings", "is_fused", "most_waits"),
    [(PRECISIONS[0], True, 0), (PRECISIONS[2], True, 0), (PRECISIONS[0], False, 1), (PRECISIONS[2], False, 1)],
    ids=["float32 fused", "fp16 fused", "float32 plain", "fp16 plain"],
)
def test_a_step_waits_for_nothing_and_starts_few_operations(
    tiny_config: Config, tiny_corpus: Path, settings: dict[str, Any], is_fused: bool, most_waits: int
) -> None:
    """Counted where all is one: on the CPU. What is read late is not counted: it is there when it is read."""
    config = dataclasses.replace(tiny_config, **settings)
    parts = build_training(config, DataFolder(tiny_corpus), ALONE)
    model = EncoderWithHead(parts.model.encoder, Free(), parts.model.amp_dtype)
    parameters = list(model.parameters())
    optimizer = fused(config, parameters) if is_fused else build_optimizer(config, parameters)
    updater = Updater(model, model, optimizer, build_scaler(config, ALONE.device), ALONE)
    batches = iter(parts.loader)
    updater(0, next(batches), margin=0.1, learning_rate=0.1)
    batch = next(batches)
    with operations_noted() as network:
        model(batch.features, batch.label, 0.1).loss.mean().backward()
    with operations_noted() as step:
        updater(1, batch, margin=0.1, learning_rate=0.1)
    assert len(waits(step)) <= most_waits, waits(step)
    around = len(step) - len(network)
    # The gradients' norm is one operation for each of the 110 parameters here, two on a GPU; so is a plain optimiser's
    # step about eight for each.
    assert around <= (170 if is_fused else 1100), (around, step)


def test_the_front_end_waits_for_nothing(tiny_config: Config, tiny_corpus: Path) -> None:
    """As a GPU computes it. All that it needs beside constants comes with the batch."""
    parts = build_training(tiny_config, DataFolder(tiny_corpus), ALONE)
    batches = [parts.data.chunks[identifier] for identifier in parts.plan]
    parts.data.frontend(batches[0])
    with operations_noted() as counted:
        for batch in batches[1:]:
            parts.data.frontend(batch)
    assert not waits(counted)
    assert len(counted) <= 2 * 190, len(counted)


def test_the_norm_is_that_of_all_gradients(tiny_config: Config, tiny_corpus: Path) -> None:
    parts = build_training(tiny_config, DataFolder(tiny_corpus), ALONE)
    batch = next(iter(parts.loader))
    parts.model(batch.features, batch.label, 0.1).loss.mean().backward()
    together = torch.cat([each.grad.double().flatten() for each in parts.model.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(gradient_norm(parts.model, ALONE).double(), together.norm(), rtol=1e-5, atol=0)
    parts.model.zero_grad()
    scaled = Updater(
        parts.model, parts.model, parts.optimizer, build_scaler(load_fp16(tiny_config), ALONE.device), ALONE
    )
    figures = scaled(0, batch, margin=0.1, learning_rate=0.0).figures.values()
    assert figures["loss_scale"] == 65536
    assert figures["grad_norm"] == pytest.approx(together.norm().item(), rel=1e-3)


def load_fp16(config: Config) -> Config:
    return dataclasses.replace(config, enable_amp=True, amp_dtype="fp16")


def on_two_processes(work: Callable[[Processes], Any]) -> list[Any]:
    """What ``work`` gives on each."""
    with socket.socket() as free_port:
        free_port.bind(("localhost", 0))
        port = free_port.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run(rank: int) -> None:
        dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
        results.put((rank, work(Processes(rank=rank, world_size=2, device=torch.device("cpu")))))
        dist.barrier()
        dist.destroy_process_group()

    children = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for child in children:
        child.start()
    found = dict(results.get() for _ in children)
    for child in children:
        child.join()
    return [found[rank] for rank in range(2)]


def test_of_processes_the_slowest_is_told() -> None:
    """Also of what one of them alone has."""
    values = [{"step_ms": 3.0, "mfu": 0.5}, {"step_ms": 7.0, "frontend_ms": 1.0}]
    found = on_two_processes(lambda processes: processes.largest(values[processes.rank]))
    assert found == [{"step_ms": 7.0, "mfu": 0.5, "frontend_ms": 1.0}] * 2


class Divided(nn.Module):
    """Prototypes of which each process has its own; those of the second have a steep gradient, or a loss of NaN."""

    def __init__(self, processes: Processes, trouble: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 4)
        self.projection = Free()
        self.projection.weight = nn.Parameter(torch.ones(2, 4))
        self.projection.partition = ClassPartition(4, processes.rank, 2)
        self.trouble = trouble if processes.rank == 1 else ""

    def forward(self, features: torch.Tensor, target: torch.Tensor, margin: float) -> LinearLoss:
        weight = Steep.apply(self.projection.weight) if self.trouble == "gradient" else self.projection.weight
        loss = (self.encoder(features) * weight[0]).sum(dim=1)
        return LinearLoss(loss * (torch.nan if self.trouble == "loss" else 1), loss.detach() < 0, None)


CASES = list(itertools.product([False, True], [False, True], ["gradient", "loss", "none"]))


def test_processes_with_prototypes_of_their_own_make_the_same_steps(tiny_config: Config) -> None:
    """A fused optimiser makes a step unless it is told exactly 1: a sum over two processes would be 2."""

    def update(processes: Processes, is_fused: bool, is_scaled: bool, trouble: str) -> tuple[bool, float, float]:
        model = Divided(processes, trouble)
        optimizer = fused(tiny_config, model.parameters()) if is_fused else torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = build_scaler(load_fp16(tiny_config) if is_scaled else tiny_config, processes.device)
        updater = Updater(model, model, optimizer, scaler, processes)  # type: ignore[arg-type]
        batch = TrainingBatch(torch.arange(3), torch.arange(3), torch.ones(3, 4), 0.0)
        before = [each.detach().clone() for each in model.parameters()]
        figures = updater(0, batch, margin=0.0, learning_rate=0.1).figures.values()
        is_same = all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
        return is_same, figures["grad_norm"], scaler.get_scale()

    found = on_two_processes(lambda processes: [update(processes, *case) for case in CASES])
    for case, first, second in zip(CASES, *found, strict=True):
        _, is_scaled, trouble = case
        assert first == pytest.approx(second, nan_ok=True), case
        assert first[0] is (trouble != "none"), case
        if is_scaled:
            assert first[2] == (65536 if trouble == "none" else 32768), case
