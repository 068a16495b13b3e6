"""What the benchmark of heads measures: cases, opponents, and the bounds that the sparse head is to keep."""

from collections.abc import Mapping
from typing import NamedTuple

from wespeaker_qm.bench.cases import Case

SPARSE = "sparse head"
COSFACE = "CosFace + F.cross_entropy"
DENSE = "own CosFace (alpha 1)"
BISECTION = "bisection as in entmax"
FAST_BISECTION = "own bisection"
TOP_BISECTION = "own bisection of the top 5 %"
TOP_PERCENT = "own bisection of the top 1 %"
ARCFACE = "ArcFace as in WeSpeaker"
PARTIAL_FC = "ArcFace as in PartialFC_V2"
SAMPLED_FC = "ArcFace as in PartialFC_V2 on 10 %"
LINEAR = "softmax by F.linear_cross_entropy"
LIGER = "softmax by Liger's kernels"
CCE = "softmax by cut-cross-entropy"
TF32, BF16, FP16, COMPILED = ", TF32", ", bf16 autocast", ", fp16 autocast", ", torch.compile"
"""What may follow the name of a head."""


class Contest(NamedTuple):
    """The sparse head against some opponents."""

    case: Case
    bounds: Mapping[str, float | None]
    """Opponent -> the ratio of times that the sparse head is to stay below; None: of interest only.

    On any processor: PyTorch's general power, and with it the bisection as in entmax, is twice as fast with AVX-512.
    """
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
    steps: tuple[Case, ...]
    """For time with the optimiser of the prototypes, lazy and dense."""


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
            {COSFACE: 0.40, DENSE: 0.50, BISECTION: 0.10, FAST_BISECTION: None, TOP_BISECTION: 0.25},
        ),
        Contest(_MIDDLE, {LINEAR: None, COSFACE + COMPILED: None}),
        Contest(_worst(_MIDDLE), {COSFACE: 1.4, DENSE: None}),
        Contest(_MIDDLE._replace(margin_type="angular"), {ARCFACE: None}),
        Contest(_MIDDLE._replace(margin_type="angular", trained=True), {ARCFACE: None}),
        Contest(_SMALL, {COSFACE: 0.55, DENSE: None}),
        Contest(_SMALL._replace(trained=True), {COSFACE: 0.40, DENSE: None}),
        Contest(_worst(_SMALL), {COSFACE: 1.4, DENSE: None}),
    ),
    memory=(),
    growth=(),
    steps=(),
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
    steps=(
        Case(128, 256, 250_000, alpha=1.5, scale=10, margin=0.1, trained=True),
        _LARGE._replace(dim=256, trained=True),
    ),
)
"""Up to a million classes: minutes, and 6 GiB of memory."""


_SHARD = Case(1024, 512, 257_488, alpha=1.25, scale=35, margin=0.2, trained=True)

QUICK_CUDA: tuple[Contest, ...] = (
    Contest(_MIDDLE, {COSFACE: 0.5, COSFACE + TF32: None, COSFACE + BF16: None, COSFACE + FP16: None, DENSE: None}),
    Contest(_MIDDLE._replace(trained=True), {COSFACE: 0.5, COSFACE + BF16: None}),
    Contest(_MIDDLE._replace(margin_type="angular", trained=True), {ARCFACE: 0.5, ARCFACE + TF32: None}),
    Contest(_SHARD._replace(margin_type="angular"), {ARCFACE: 0.4, ARCFACE + TF32: None, PARTIAL_FC + FP16: None}),
    Contest(_SHARD._replace(trained=False), {COSFACE + TF32: None, COSFACE + BF16: None}),
    Contest(_MIDDLE, {COSFACE + COMPILED: None, COSFACE + COMPILED + BF16: None}),
)
"""Sizes of VoxCeleb2 with speeds, and of one of eight shards of two million classes: about a minute."""

FULL_CUDA: tuple[Contest, ...] = (
    *QUICK_CUDA,
    Contest(_MIDDLE, {BISECTION: None, FAST_BISECTION: None, TOP_BISECTION: None, TOP_PERCENT: None}),
    Contest(_MIDDLE, {LINEAR: None, LIGER + BF16: None, CCE + BF16: None, PARTIAL_FC + FP16: None, SAMPLED_FC: None}),
    Contest(_MIDDLE._replace(margin_type="angular"), {ARCFACE: None, ARCFACE + BF16: None}),
    Contest(_worst(_MIDDLE), {COSFACE: None, DENSE: None}),
    Contest(_SMALL, {COSFACE: None, COSFACE + TF32: None, COSFACE + BF16: None, DENSE: None}),
    Contest(_SMALL._replace(trained=True), {COSFACE: None}),
    Contest(_LARGE, {COSFACE: None, COSFACE + TF32: None, COSFACE + BF16: None, DENSE: None}),
    Contest(_LARGE._replace(trained=True), {COSFACE: None, COSFACE + COMPILED: None}),
    Contest(_SHARD, {LINEAR: None, LIGER + BF16: None, CCE + BF16: None, SAMPLED_FC + FP16: None}),
    Contest(_SHARD, {COSFACE: None, COSFACE + COMPILED + BF16: None, FAST_BISECTION: None, TOP_PERCENT: None}),
)
"""All opponents: some minutes."""
