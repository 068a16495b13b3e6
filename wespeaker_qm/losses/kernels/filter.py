"""Kernels that find the candidates of each row from cosines of low precision.

Legend: B rows, n classes, in G groups of GROUP neighbours; K places for the candidates of a row. Cosines (B, n) are off
by at most an error that the caller knows. A cosine that is NaN makes the row's threshold NaN, above which nothing lies.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.newton import as_double, lone_height, start_of


@triton.jit
def group_max(cosine, target, maxima, n, num_groups, GROUP: tl.constexpr, GROUPS: tl.constexpr):
    """Maxima (B, G) float32 of the cosines of each group, the target left out; NaN where there is one."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(cosine + row * n + column, mask=column < n, other=float("-inf")).to(tl.float32)
    value = tl.where(column == tl.load(target + row), float("-inf"), value)
    is_bad = value != value
    largest = tl.max(tl.where(is_bad, float("-inf"), value), 1)
    largest = tl.where(tl.max(is_bad.to(tl.int32), 1) > 0, float("nan"), largest)
    tl.store(maxima + row * num_groups + group, largest, mask=group < num_groups)


@triton.jit
def bound(
    maxima, target_logit, target_log_q, threshold, num_groups, error: tl.float64, scale: tl.float64, a: tl.float64,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Thresholds (B,) float64: a class in the support has a larger s times cosine of low precision.

    Each maximum is the cosine of another class, so the root over them, each lowered by the error, and the target is a
    lower bound of tau. Another error, and the round-off of all this, is taken off for the classes to be compared.
    """
    row = tl.program_id(0)
    a = as_double(a)
    scale = as_double(scale)
    group = tl.arange(0, BLOCK)
    cosine = tl.load(maxima + row.to(tl.int64) * num_groups + group, mask=group < num_groups, other=float("-inf"))
    is_bad = tl.max((cosine != cosine).to(tl.int32), 0) > 0
    cosine = tl.where(cosine != cosine, float("-inf"), cosine)
    slack = scale * error
    logit = cosine * scale.to(tl.float32) - slack.to(tl.float32)
    own = tl.load(target_logit + row)
    log_q = tl.load(target_log_q + row)
    best = tl.max(logit, 0)
    top = tl.maximum(best, own.to(tl.float32))
    wide_top = top.to(tl.float64)
    best_gap = (wide_top - best.to(tl.float64)) * a
    target_gap = (wide_top - own) * a
    alone = lone_height(best_gap, target_gap, log_q, a)
    gap = (top - logit) * a.to(tl.float32)
    height = start_of(gap, alone, best_gap, target_gap, log_q, a, POWER)
    lowest = wide_top - (height - 1) / a - 1 / a
    lowest = lowest - slack - 32 * 1.1920928955078125e-07 * (scale + tl.abs(lowest))
    tl.store(threshold + row, tl.where(is_bad, float("nan"), lowest + own * 0))


@triton.jit
def compact(
    cosine, maxima, target, threshold, live, classes, count, n, num_groups, K, scale: tl.float64,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The target and, in their order, the classes above the threshold: (B, K), filled up with n; and their number (B,).

    Only groups whose maximum lies above it are looked at. The number is the true one: above K, not all have a place.
    """
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(target + row)
    above = tl.load(threshold + row)
    group = tl.arange(0, BLOCK)
    narrow_scale = as_double(scale).to(tl.float32)
    largest = tl.load(maxima + row * num_groups + group, mask=group < num_groups, other=float("-inf"))
    is_live = (largest * narrow_scale).to(tl.float64) > above
    rank = tl.cumsum(is_live.to(tl.int32), 0) - 1
    num_live = tl.sum(is_live.to(tl.int32), 0)
    tl.store(live + row * num_groups + rank, group, mask=is_live)
    tl.debug_barrier()
    found = 1
    for start in range(0, num_live, GROUPS):
        number = start + tl.arange(0, GROUPS)
        some = tl.load(live + row * num_groups + number, mask=number < num_live, other=0)
        column = some[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        mask = (number < num_live)[:, None] & (column < n) & (column != index)
        value = tl.load(cosine + row * n + column, mask=mask, other=float("-inf")).to(tl.float32)
        is_hit = tl.reshape(((value * narrow_scale).to(tl.float64) > above).to(tl.int32), (GROUPS * GROUP,))
        place = found + tl.cumsum(is_hit, 0) - 1
        tl.store(classes + row * K + place, tl.reshape(column, (GROUPS * GROUP,)), mask=(is_hit > 0) & (place < K))
        found += tl.sum(is_hit, 0)
    tl.store(classes + row * K, index.to(tl.int32))
    tl.store(count + row, found)
    for start in range(found, K, GROUPS * GROUP):
        place = start + tl.arange(0, GROUPS * GROUP)
        tl.store(classes + row * K + place, tl.full((GROUPS * GROUP,), 0, tl.int32) + n, mask=place < K)
