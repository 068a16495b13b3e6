"""Kernels on whole rows of cosines: a row is walked over a few times, and its cosines become the loss's derivatives.

Legend: B rows, n classes, in lines that are ``stride`` apart, a multiple of 16 for the sake of wide loads. A program
computes one row, in blocks of classes, the last of which may be ragged; the target is left out of the walk, and
everything of it is float64. The first walk finds the maxima of strided groups of classes; the root over these (a lower
bound of tau) is where Newton begins on all, which then takes one to three walks; the last writes s p_j over cos_j.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.newton import (
    MAX_STEPS,
    as_double,
    lone_height,
    loss_of,
    slopes,
    start_of,
    step_of,
    target_posterior,
    unit_at,
    weights,
    with_target,
)


@triton.jit
def logits_at(line, start, n, stride, target, scale, BLOCK: tl.constexpr):
    """Logits of a block of others, float32, -inf where there is none; cosines beyond 1 are 1."""
    column = start + tl.arange(0, BLOCK)
    value = tl.load(line + column, mask=column < stride, other=0.0)
    value = tl.where(value > 1, 1.0, tl.where(value < -1, -1.0, value))
    value = value * as_double(scale).to(tl.float32)
    return tl.where((column < n) & (column != target), value, float("-inf"))


@triton.jit
def largest_logits(line, n, stride, target, scale, BLOCK: tl.constexpr):
    """Maxima (BLOCK,) of the strided groups of others, and 0, or NaN where some cosine is NaN."""
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    bad = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, n, BLOCK):
        value = logits_at(line, start, n, stride, target, scale, BLOCK)
        bad = bad | (value != value).to(tl.int32)
        largest = tl.where(value > largest, value, largest)
    return largest, tl.where(tl.max(bad, 0) > 0, float("nan"), 0.0)


@triton.jit
def divergence_row(
    line, row, index, target_cosine, target_logit, target_slope, target_log_q,
    loss, correct, support, posterior, n, stride, roundoff, scale, a,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one row: loss (5), whether the target is nearest, support, p_y; over the others' cosines, d loss / d cosine.

    ``index`` is the target's place in the line, if it has one. Returns d loss / d cosine of the target, the largest
    logit, the height, and log of the total weight.
    """
    a = as_double(a)
    own_logit = tl.load(target_logit + row)
    log_q = tl.load(target_log_q + row)
    maxima, poison = largest_logits(line, n, stride, index, scale, BLOCK)
    best_other = tl.max(maxima, 0)
    # Exact in both types: the gaps of float32 logits to it lose nothing.
    top = tl.maximum(best_other, own_logit.to(tl.float32))
    wide_top = top.to(tl.float64)
    best_gap = (wide_top - best_other.to(tl.float64)) * a
    target_gap = (wide_top - own_logit) * a
    alone = lone_height(best_gap, target_gap, log_q, a)
    tolerance = as_double(6.42e-06)  # eps ** 0.75
    narrow_a = a.to(tl.float32)
    # The root over some of the classes is a lower bound of tau.
    height = start_of((top - maxima) * narrow_a, alone, best_gap, target_gap, log_q, a, POWER)

    log_total = height * 0
    go = True
    count = 0
    while go:
        unit = unit_at(height, best_gap, target_gap, log_q, a, POWER)
        totals = tl.zeros((BLOCK,), tl.float32)
        slants = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, n, BLOCK):
            gap = (top - logits_at(line, start, n, stride, index, scale, BLOCK)) * narrow_a
            weight, share = weights(gap, height, a, unit, POWER)
            totals += weight
            slants += slopes(weight, share, POWER)
        total, slope = with_target(
            tl.sum(totals, 0).to(tl.float64), tl.sum(slants, 0).to(tl.float64), unit, height, target_gap, log_q, a
        )
        step = step_of(total, slope, unit, height, a)
        count += 1
        go = (step > tolerance) & (count < MAX_STEPS)
        log_total = unit + tl.log(total) - step * (slope / total - 1) / a
        height = tl.where(go, height * (1 - tl.maximum(step, 0.0)), tl.minimum(height * (1 - step), alone))

    masses = tl.zeros((BLOCK,), tl.float32)
    energies = tl.zeros((BLOCK,), tl.float32)
    members = tl.zeros((BLOCK,), tl.int32)
    if POWER > 0:
        unit = height * 0
        factor = tl.exp(-log_total).to(tl.float32)
    else:
        unit = log_total
        factor = tl.full((), 1.0, tl.float32)
    narrow_scale = as_double(scale).to(tl.float32)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        gap = (top - logits_at(line, start, n, stride, index, scale, BLOCK)) * narrow_a
        weight, share = weights(gap, height, a, unit, POWER)
        mass = weight * factor + poison
        masses += mass
        energies += mass * share
        members += (share > 0).to(tl.int32)
        tl.store(line + column, mass * narrow_scale, mask=(column < stride) & (column != index))
    off_target = tl.sum(masses, 0).to(tl.float64)
    energy = tl.sum(energies, 0).to(tl.float64)
    others = tl.sum(members, 0)
    value = loss_of(height, log_total, target_gap, log_q, off_target, energy, a) + own_logit * 0
    own, is_member = target_posterior(target_gap, log_q, height, log_total, off_target, others, a)
    is_nearest = as_double(scale) * (tl.load(target_cosine + row) + roundoff) >= best_other.to(tl.float64)
    tl.store(loss + row, value.to(tl.float32))
    tl.store(correct + row, is_nearest & (value == value))
    tl.store(support + row, (others + is_member).to(tl.float32))
    tl.store(posterior + row, own + value.to(tl.float32) * 0)
    own_derivative = (-off_target * tl.load(target_slope + row)).to(tl.float32)
    return own_derivative, wide_top, height, log_total


@triton.jit
def divergence_rows(
    cosine, target, target_cosine, target_logit, target_slope, target_log_q,
    loss, correct, support, posterior, n, stride, roundoff: tl.float64, scale: tl.float64, a: tl.float64,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`divergence_row` of each row of cosine (B, n); beyond n, there are zeros then."""
    row = tl.program_id(0)
    line = cosine + row.to(tl.int64) * stride
    index = tl.load(target + row)
    own_derivative, _, _, _ = divergence_row(
        line, row, index, target_cosine, target_logit, target_slope, target_log_q,
        loss, correct, support, posterior, n, stride, roundoff, scale, a, POWER, BLOCK,
    )  # fmt: skip
    tl.store(line + index, own_derivative, mask=(index >= 0) & (index < n))


@triton.jit
def softmax_rows(
    cosine, target, target_cosine, target_logit, target_slope, target_log_q,
    loss, correct, support, posterior, n, stride, roundoff: tl.float64, scale: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """Cross-entropy of the logits tilted by log q, as `divergence_rows`: -log p_y = log(1 + sum exp(theta_j - y)).

    Of support and p_y it says nothing: both are 0.
    """
    row = tl.program_id(0)
    line = cosine + row.to(tl.int64) * stride
    index = tl.load(target + row)
    tilted = tl.load(target_logit + row) + tl.load(target_log_q + row)
    maxima, poison = largest_logits(line, n, stride, index, scale, BLOCK)
    best_other = tl.max(maxima, 0)
    top = tl.maximum(best_other, tilted.to(tl.float32))
    totals = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        totals += tl.exp(logits_at(line, start, n, stride, index, scale, BLOCK) - top)
    others = tl.sum(totals, 0).to(tl.float64) + poison
    lead = tilted - top.to(tl.float64)
    own = tl.exp(lead)
    small = others / own
    near_one = tl.log(1 + small) + (small - ((1 + small) - 1)) / (1 + small)
    value = tl.where(own < 0.5, tl.log(others + own) - lead, near_one)
    factor = (as_double(scale) / (others + own)).to(tl.float32)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mass = tl.exp(logits_at(line, start, n, stride, index, scale, BLOCK) - top) * factor
        tl.store(line + column, mass, mask=(column < stride) & (column != index))
    is_nearest = as_double(scale) * (tl.load(target_cosine + row) + roundoff) >= best_other.to(tl.float64)
    tl.store(loss + row, value.to(tl.float32))
    tl.store(correct + row, is_nearest & (value == value))
    tl.store(support + row, 0.0)
    tl.store(posterior + row, 0.0)
    is_class = (index >= 0) & (index < n)
    derivative = -others / (others + own) * tl.load(target_slope + row)
    tl.store(line + index, derivative.to(tl.float32), mask=is_class)
