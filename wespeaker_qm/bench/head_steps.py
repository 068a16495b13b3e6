"""A step of the prototypes with all that belongs to it: head, gradients, their norm, and SGD, dense or lazy.

Rows that SGD leaves behind are caught up every 32 steps. So a time is a mean over as many, in which each row has been
given all of its steps. Single steps are taken in turn, so that whatever slows the machine down slows both.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.bench.cases import Case, near, simulate
from wespeaker_qm.bench.head_tables import data, names
from wespeaker_qm.bench.timing import Quartiles, in_turn, paired_ratios, quartiles
from wespeaker_qm.losses.heads import AngularMarginHead, CosineHead, QMarginHead
from wespeaker_qm.losses.prototype_sgd import PrototypeSGD
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.allocator import keep_freed_pages

_STEPS = 32
_RATE, _MOMENTUM, _DECAY = 0.05, 0.9, 1e-4


class StepResult(NamedTuple):
    """Both optimisers in one case; milliseconds a step."""

    case: Case
    touched: float
    """Mean number of classes with a gradient."""
    dense_ms: float
    lazy_ms: float
    ratio: Quartiles
    """Of the times, lazy / dense, over the rounds."""


def step_contest(case: Case, rounds: int) -> StepResult:
    """Time ``rounds`` times 32 steps of both, each step with embeddings of its own.

    Sets threads and allocator of this process.
    """
    torch.set_num_threads(1)
    keep_freed_pages()
    touched: list[int] = []
    steps = {"dense": _step_of(case, touched, lazily=False), "lazy": _step_of(case, touched, lazily=True)}
    times_ms = {
        name: [sum(times[first : first + _STEPS]) / _STEPS for first in range(0, len(times), _STEPS)]
        for name, times in in_turn(steps, rounds * _STEPS).items()
    }
    return StepResult(
        case,
        sum(touched) / len(touched),
        quartiles(times_ms["dense"]).median,
        quartiles(times_ms["lazy"]).median,
        paired_ratios(times_ms["lazy"], times_ms["dense"]),
    )


def _step_of(case: Case, touched: list[int], *, lazily: bool) -> Callable[[], None]:
    """A function that makes a step; lazily, it notes how many rows the gradient has."""
    kind = QMarginHead if case.margin_type == "reference" else AngularMarginHead
    head: CosineHead = kind(case.dim, case.num_classes, scale=case.scale, alpha=case.alpha)
    with torch.no_grad():
        head.weight.copy_(simulate(case).prototypes)
    optimizer: torch.optim.Optimizer
    if lazily:
        optimizer = PrototypeSGD([head.weight], head, lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
    else:
        optimizer = torch.optim.SGD([head.weight], lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY, fused=True)
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[Tensor, Tensor]:
        target = torch.randint(case.num_classes, (case.batch,), generator=generator)
        embedding = torch.randn(case.batch, case.dim, generator=generator)
        if case.trained:
            embedding = near(F.normalize(head.weight.detach()[target]), embedding, generator)
        return embedding.requires_grad_(), target

    def step() -> None:
        optimizer.zero_grad()
        head(*batch(), case.margin).loss.mean().backward()
        gradient = head.weight.grad
        if gradient is None:
            raise RuntimeError("found no gradient, expected that of the prototypes")
        if gradient.is_sparse:
            gradient = gradient.coalesce().values()
        if lazily:
            touched.append(len(gradient))
        torch.nn.utils.get_total_norm([gradient])  # as the log has it
        optimizer.step()

    return step


def steps_table(results: list[StepResult]) -> str:
    """One line a case."""
    header = ["B, D, C", "alpha/s/m", "data", "touched %", "dense SGD, ms", "lazy SGD, ms", "ratio", "quartiles"]
    rows = [
        [
            *names(result.case),
            data(result.case),
            f"{100 * result.touched / result.case.num_classes:.2f}",
            f"{result.dense_ms:.1f}",
            f"{result.lazy_ms:.1f}",
            f"{result.ratio.median:.3f}",
            f"{result.ratio.lower:.3f} to {result.ratio.upper:.3f}",
        ]
        for result in results
    ]
    return markdown_table(header, rows)
