"""What the benchmark of heads measures: cases, opponents, and the bounds that the sparse head is to keep."""

from collections.abc import Mapping
from typing import NamedTuple

from wespeaker_qm.bench.cases import Case

COSFACE = "CosFace + F.cross_entropy"
DENSE = "own CosFace (alpha 1)"
BISECTION = "bisection as in entmax"
FAST_BISECTION = "own bisection"
TOP_BISECTION = "own bisection, top 5 %"
ARCFACE = "ArcFace as in WeSpeaker"
COMPILED = "CosFace + F.cross_entropy, torch.compile"
LINEAR = "softmax by F.linear_cross_entropy"


class Contest(NamedTuple):
    """The sparse head against some opponents."""

    case: Case
    bounds: Mapping[str, float | None]
    """Opponent -> the ratio of times that the sparse head is to stay below; None: of interest only."""
    keep_pages: bool = False
    """Keep freed memory in the process. By default large blocks go back to the kernel, which gives and clears them anew
    in every step; with so many classes a dense head would spend most of its time on waiting for that."""


class HeadPlan(NamedTuple):
    """What is measured."""

    contests: tuple[Contest, ...]
    """For time."""
    memory: tuple[Case, ...]
    """For the peak with sparse gradients, which is to stay below ``MEMORY_BOUND_MIB``."""
    growth: tuple[Case, ...]
    """For time with sparse gradients by the number of classes, the first being the reference."""


MEMORY_BOUND_MIB = 150

_MIDDLE = Case(128, 256, 17_982, alpha=1.5, scale=10, margin=0.1, trained=False)
_SMALL = Case(128, 256, 5_994, alpha=1.75, scale=5, margin=0.1, trained=False)
_LARGE = Case(128, 512, 200_000, alpha=1.25, scale=35, margin=0.2, trained=False)
_HUGE = Case(64, 512, 1_000_000, alpha=1.25, scale=35, margin=0.2, trained=True)


def _worst(case: Case) -> Case:
    """A small alpha at a small scale before training: the support is wide, and a dense computation the right one."""
    return case._replace(alpha=1.25, scale=10)


QUICK = HeadPlan(
    contests=(
        Contest(_MIDDLE, {COSFACE: 0.65, DENSE: 0.85, BISECTION: 0.10, FAST_BISECTION: None, TOP_BISECTION: 0.50}),
        Contest(
            _MIDDLE._replace(trained=True),
            {COSFACE: 0.40, DENSE: 0.50, BISECTION: 0.06, FAST_BISECTION: None, TOP_BISECTION: 0.25},
        ),
        Contest(_MIDDLE, {LINEAR: None, COMPILED: None}),
        Contest(_worst(_MIDDLE), {COSFACE: 1.4, DENSE: None}),
        Contest(_MIDDLE._replace(margin_type="angular"), {ARCFACE: None}),
        Contest(_MIDDLE._replace(margin_type="angular", trained=True), {ARCFACE: None}),
        Contest(_SMALL, {COSFACE: 0.55, DENSE: None}),
        Contest(_SMALL._replace(trained=True), {COSFACE: 0.40, DENSE: None}),
        Contest(_worst(_SMALL), {COSFACE: 1.4, DENSE: None}),
    ),
    memory=(),
    growth=(),
)
"""Sizes of VoxCeleb1 and 2 (with speeds) only: a minute, and less than 1 GiB of memory."""

FULL = HeadPlan(
    contests=(
        *QUICK.contests,
        Contest(_LARGE, {COSFACE: 0.45, DENSE: None}, keep_pages=True),
        Contest(_LARGE._replace(trained=True), {COSFACE: 0.35, DENSE: None}, keep_pages=True),
        Contest(_worst(_LARGE), {COSFACE: 1.4, DENSE: None}, keep_pages=True),
    ),
    memory=(_HUGE._replace(trained=False), _HUGE),
    growth=tuple(_HUGE._replace(num_classes=num_classes) for num_classes in (10_000, 100_000, 1_000_000)),
)
"""Up to a million classes: minutes, and 6 GiB of memory."""
