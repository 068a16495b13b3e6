#!/usr/bin/env python3
"""Train with the head made to work sparsely and with the dense loss, and compare losses and gradients step by step.

    tools/compare_heads.py [--data data/mini] [--config FILE ...] [--set ...] [--steps 200] [--dtype float32]

Trainings from the same seed on the same batches. `alpha_margin_linear` would compute densely by itself with as few
classes as egs/mini has, so its thresholds are moved; the dense loss is `alpha_divergence_loss` on the matrix of all
logits, whose way back to embeddings and prototypes is autograd's. At every step both heads compute the loss and its
gradients for embeddings and prototypes from the same weights. They must agree to 1e-4, or the exit code is 1.

Two trainings go apart all the same, because batch norm and a high learning rate make round-off larger, from step to
step. How far, whatever the head, shows a third training: the dense loss with the classes in reverse order.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from wespeaker_qm.config import Config, load_config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.losses import candidates, dispatch
from wespeaker_qm.losses.alpha import alpha_divergence_loss, target_log_reference
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.margins import angular_margin
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.layout import DataFolder, RunFolder

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-4
Compute = Callable[[CosineHead, Tensor, Tensor, float], LinearLoss]
SPARSE: Compute = CosineHead.forward


class FinishedError(Exception):
    """Enough steps."""


def relative(one: float, other: float) -> float:
    """Difference of two losses, as a share of the second."""
    return abs(one - other) / other if one != other else 0.0


def gradients_apart(ones: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> float:
    """Largest norm of a difference, as a share of the second's norm; 0 for equal ones, which may be all 0."""
    pairs = zip(ones, others, strict=True)
    return max(0.0 if one.equal(other) else ((one - other).norm() / other.norm()).item() for one, other in pairs)


def dense_loss(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
    """As `CosineHead.forward`, from all logits."""
    return _dense_loss(head, embedding, head.weight, target, margin)


def reversed_loss(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
    """As `dense_loss`, with the classes in reverse order."""
    return _dense_loss(head, embedding, head.weight.flip(0), len(head.weight) - 1 - target, margin)


def _dense_loss(head: CosineHead, embedding: Tensor, prototypes: Tensor, target: Tensor, margin: float) -> LinearLoss:
    cosine = nn.functional.normalize(embedding) @ nn.functional.normalize(prototypes).T
    logits, log_q = head.scale * cosine, None
    if head.margin_type == "reference":
        log_q = target_log_reference(logits, target, -head.scale * margin)
    else:
        column = target[:, None]
        own = angular_margin(cosine.gather(1, column), margin, easy_margin=head.margin_type == "easy_angular")
        logits = logits.scatter(1, column, head.scale * own)
    loss = alpha_divergence_loss(logits, target, head.alpha, log_q).loss
    return LinearLoss(loss, cosine.argmax(1) == target, None)


class Step(NamedTuple):
    """Mean loss of a batch, and how far loss and gradients are from those of the dense loss on the same weights."""

    loss: float
    loss_difference: float
    gradient_difference: float


def train(config: Config, data: Path, steps: int, dtype: torch.dtype, compute: Compute) -> list[Step]:
    """The first ``steps`` steps of a training with ``compute`` as the head."""
    seen: list[Step] = []

    def forward(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
        inputs = (embedding, head.weight)
        outputs = [function(head, embedding, target, margin) for function in (compute, dense_loss)]
        losses = [output.loss.mean() for output in outputs]
        own, dense = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses)
        loss, other = (loss.item() for loss in losses)
        seen.append(Step(loss, relative(loss, other), gradients_apart(own, dense)))
        if len(seen) == steps:
            raise FinishedError
        return outputs[0]

    with (
        tempfile.TemporaryDirectory() as exp_dir,
        mock.patch.object(CosineHead, "forward", forward),
        # Neither few classes nor many candidates make `alpha_margin_linear` compute densely.
        mock.patch.object(dispatch, "WAYS", {"cpu": ((math.inf, Way.FILTERED),)}),
        mock.patch.object(candidates, "_DENSE", 1.0),
        suppress(FinishedError),
    ):
        trainer = Trainer(config, build_training(config, DataFolder(data), ALONE), RunFolder(exp_dir))
        trainer.parts.model.to(dtype)
        one_step = trainer._step

        def step_in_dtype(step: int, batch: TrainingBatch) -> dict[str, float]:
            return one_step(step, batch._replace(features=batch.features.to(dtype)))

        trainer._step = step_in_dtype  # type: ignore[method-assign]
        trainer.run()
    return seen


def apart(one: list[Step], other: list[Step]) -> list[float]:
    """Relative difference of the losses of two trainings at each step."""
    return [relative(first.loss, second.loss) for first, second in zip(one, other, strict=True)]


def main() -> int:
    """Compare, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/mini")
    defaults = [ROOT / "conf/resnet34.yaml", ROOT / "egs/mini/conf.yaml"]
    parser.add_argument("--config", type=Path, nargs="+", default=defaults)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="dotted settings over the files")
    parser.add_argument("--steps", type=COUNT, default=200)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of network and head")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    dtype = getattr(torch, arguments.dtype)
    sparse, dense, control = (
        train(config, arguments.data, arguments.steps, dtype, compute)
        for compute in (SPARSE, dense_loss, reversed_loss)
    )
    loss = max(step.loss_difference for step in sparse)
    gradient = max(step.gradient_difference for step in sparse)
    print(
        f"{counted(len(sparse), 'step', 'steps')} in {arguments.dtype}, largest relative differences (limit {LIMIT:g}):"
    )
    print(f"  sparse and dense on the same weights: loss {loss:.1e}, gradients {gradient:.1e}")
    print("losses of two trainings, largest relative difference up to a step:")
    print("  step  sparse and dense  dense and dense in reverse order")
    trainings = list(zip(apart(sparse, dense), apart(control, dense), strict=True))
    for step in sorted({min(step, len(sparse)) for step in (5, 10, 20, 50, 100, len(sparse))}):
        one, other = (max(column) for column in zip(*trainings[:step], strict=True))
        print(f"  {step:4d}  {one:16.1e}  {other:32.1e}")
    return 0 if max(loss, gradient) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
