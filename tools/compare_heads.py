#!/usr/bin/env python3
"""Train with the head made to work sparsely and with the dense loss, and compare the losses step by step.

    tools/compare_heads.py [--data data/mini] [--config FILE ...] [--set ...] [--steps 200] [--dtype float64]

Two trainings from the same seed on the same batches, one with each head. `alpha_margin_linear` would compute densely by
itself with as few classes as egs/mini has, so its thresholds are moved; the dense loss is `alpha_divergence_loss` on
the matrix of all logits, whose way back to embeddings and prototypes is autograd's. Each step also computes the other
head's loss on the same weights: what two trainings differ by beyond that is round-off that training made larger. In
float32 that soon is as large as the loss, whatever the head; therefore float64.

Exits with 1 if a loss differs by more than 1e-4 of itself.
"""

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from wespeaker_qm.config import Config, load_config
from wespeaker_qm.losses import candidates, linear
from wespeaker_qm.losses.alpha import alpha_divergence_loss, target_log_reference
from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.margins import angular_margin
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.loop import Trainer

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-4
SPARSE = CosineHead.forward


class FinishedError(Exception):
    """Enough steps."""


def relative(one: float, other: float) -> float:
    """Difference of two losses, as a share of the second."""
    return abs(one - other) / other if one != other else 0.0


def dense_loss(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
    """As `CosineHead.forward`, from all logits."""
    cosine = nn.functional.normalize(embedding) @ nn.functional.normalize(head.weight).T
    logits, log_q = head.scale * cosine, None
    if head.margin_type == "reference":
        log_q = target_log_reference(logits, target, -head.scale * margin)
    else:
        column = target[:, None]
        own = angular_margin(cosine.gather(1, column), margin, easy_margin=head.margin_type == "easy_angular")
        logits = logits.scatter(1, column, head.scale * own)
    loss = alpha_divergence_loss(logits, target, head.alpha, log_q).loss
    return LinearLoss(loss, cosine.argmax(1) == target, None)


def train(config: Config, data: Path, steps: int, dtype: torch.dtype, *, dense: bool) -> list[tuple[float, float]]:
    """The first ``steps`` batch losses of the head that trains, and of the other one on the same weights."""
    losses: list[tuple[float, float]] = []

    def both(head: CosineHead, embedding: Tensor, target: Tensor, margin: float) -> LinearLoss:
        outputs = [compute(head, embedding, target, margin) for compute in (SPARSE, dense_loss)]
        own, other = reversed(outputs) if dense else outputs
        losses.append((own.loss.mean().item(), other.loss.mean().item()))
        if len(losses) == steps:
            raise FinishedError
        return own

    with (
        tempfile.TemporaryDirectory() as exp_dir,
        mock.patch.object(CosineHead, "forward", both),
        # Neither few classes nor many candidates make `alpha_margin_linear` compute densely.
        mock.patch.object(linear, "_FEW_CLASSES", 0),
        mock.patch.object(candidates, "_DENSE", 1.0),
        suppress(FinishedError),
    ):
        trainer = Trainer(config, data, Path(exp_dir), Processes(0, 1, torch.device("cpu")), None)
        trainer.model.to(dtype)
        frontend = trainer.frontend
        trainer.frontend = lambda batch: frontend(batch).to(dtype)  # type: ignore[assignment]
        trainer.run()
    return losses


def differences(config: Config, data: Path, steps: int, dtype: torch.dtype) -> tuple[float, float, int]:
    """Largest relative differences on the same weights and of two trainings, and the steps compared."""
    sparse, dense = (train(config, data, steps, dtype, dense=dense) for dense in (False, True))
    pairs = zip(sparse, dense, strict=True)
    same_weights = max(relative(own, other) for own, other in sparse + dense)
    return same_weights, max(relative(one[0], other[0]) for one, other in pairs), len(sparse)


def main() -> int:
    """Compare, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/mini")
    defaults = [ROOT / "conf/resnet34.yaml", ROOT / "egs/mini/conf.yaml"]
    parser.add_argument("--config", type=Path, nargs="+", default=defaults)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="dotted settings over the files")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="of network and head")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    same_weights, trainings, steps = differences(
        config, arguments.data, arguments.steps, getattr(torch, arguments.dtype)
    )
    print(f"{steps} steps; largest relative difference of the loss: {same_weights:.1e} on the same weights,")
    print(f"{trainings:.1e} between the two trainings (limit {LIMIT:g})")
    return 0 if max(same_weights, trainings) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
