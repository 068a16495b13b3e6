"""Kernels on the candidates of each row: exact logits, the root and the loss, and the gradients of the embeddings.

Legend: B rows, n classes, D dimensions, K places for the candidates of a row, of which the target is the first. A row
with more than K is wide: it is solved by walking over all classes of it again, and its candidates are forgotten.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.newton import (
    as_double,
    lone_height,
    loss_of,
    start_of,
    target_posterior,
    vector_root,
    weights,
)
from wespeaker_qm.losses.kernels.rows import divergence_row
from wespeaker_qm.losses.kernels.vectors import tangent_over_norm


@triton.jit
def exact_cosines(x, prototypes, inverse_norms, index, mask, D, BLOCK_D: tl.constexpr):
    """Cosines, float32, of a unit vector (BLOCK_D,) and some prototypes; those beyond 1 are 1."""
    column = tl.arange(0, BLOCK_D)
    place = index[:, None].to(tl.int64) * D + column[None, :]
    inverse = tl.load(inverse_norms + index, mask=mask, other=0.0)
    # The inverse is 2^exponent times a number of [1, 2): the power, in two steps, brings prototypes into range exactly.
    exponent = ((inverse.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1023
    exponent = tl.where(inverse == 0, 0, tl.minimum(exponent, 250)).to(tl.int32)
    half = exponent >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((exponent - half + 127) << 23).to(tl.float32, bitcast=True)
    w = tl.load(prototypes + place, mask=mask[:, None] & (column < D)[None, :], other=0.0)
    value = tl.sum(w * first[:, None] * second[:, None] * x[None, :], 1).to(tl.float64)
    value = (value * (inverse / first.to(tl.float64) / second.to(tl.float64))).to(tl.float32)
    return tl.where(value > 1, 1.0, tl.where(value < -1, -1.0, value))


@triton.jit
def candidate_cosines(
    unit, prototypes, inverse_norms, classes, count, cosine, K, D, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Exact cosines (B, K) float32 of the candidates; of wide rows and of empty places, none is written."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.load(count + row)
    column = tl.arange(0, BLOCK_D)
    x = tl.load(unit + row * D + column, mask=column < D, other=0.0)
    number = tl.where(number <= K, number, 0)
    for start in range(tl.program_id(1) * BLOCK, number, tl.num_programs(1) * BLOCK):
        place = start + tl.arange(0, BLOCK)
        mask = place < number
        index = tl.load(classes + row * K + place, mask=mask, other=0)
        value = exact_cosines(x, prototypes, inverse_norms, index, mask, D, BLOCK_D)
        tl.store(cosine + row * K + place, value, mask=mask)


@triton.jit
def candidate_root(
    cosine, count, threshold, target_cosine, target_logit, target_slope, target_log_q,
    loss, correct, support, posterior, K, roundoff: tl.float64, scale: tl.float64, a: tl.float64,
    POWER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As `rows.divergence_rows`, on the candidates alone and in float64; over cosine (B, K), d loss / d cosine."""
    row = tl.program_id(0)
    number = tl.load(count + row)
    if number <= K:
        a = as_double(a)
        scale = as_double(scale)
        line = cosine + row.to(tl.int64) * K
        place = tl.arange(0, BLOCK)
        is_other = (place > 0) & (place < number)
        logit = tl.load(line + place, mask=is_other, other=float("-inf")).to(tl.float64) * scale
        own_logit = tl.load(target_logit + row)
        log_q = tl.load(target_log_q + row)
        best_other = tl.max(logit, 0)
        top = tl.maximum(best_other, own_logit)
        gap = (top - logit) * a
        best_gap = (top - best_other) * a
        target_gap = (top - own_logit) * a
        alone = lone_height(best_gap, target_gap, log_q, a)
        height = start_of(gap.to(tl.float32), alone, best_gap, target_gap, log_q, a, POWER)
        tolerance = as_double(1e-12)
        height, log_total = vector_root(gap, height, alone, best_gap, target_gap, log_q, a, tolerance, POWER)
        unit = log_total if POWER == 0 else log_total * 0
        weight, share = weights(gap, height, a, unit, POWER)
        mass = weight if POWER == 0 else weight * tl.exp(-log_total)
        off_target = tl.sum(mass, 0)
        others = tl.sum((share > 0).to(tl.int32), 0)
        poison = (own_logit + tl.load(threshold + row)) * 0
        value = loss_of(height, log_total, target_gap, log_q, off_target, tl.sum(mass * share, 0), a) + poison
        own, is_member = target_posterior(target_gap, log_q, height, log_total, off_target, others, a)
        is_nearest = scale * (tl.load(target_cosine + row) + roundoff) >= best_other
        own_derivative = -off_target * tl.load(target_slope + row)
        derivative = tl.where(place == 0, own_derivative, mass * scale) + poison
        tl.store(line + place, derivative.to(tl.float32), mask=place < number)
        tl.store(loss + row, value.to(tl.float32))
        tl.store(correct + row, is_nearest & (value == value))
        tl.store(support + row, (others + is_member).to(tl.float32))
        tl.store(posterior + row, own + value.to(tl.float32) * 0)


@triton.jit
def classes_above(low_cosine, index, above, scale, classes, n, BLOCK: tl.constexpr):
    """The classes of a row above the threshold, in their order, without the target ``index``; and their number."""
    narrow_scale = as_double(scale).to(tl.float32)
    found = 0
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(low_cosine + column, mask=column < n, other=float("-inf")).to(tl.float32)
        is_hit = (((value * narrow_scale).to(tl.float64) > above) & (column != index)).to(tl.int32)
        tl.store(classes + found + tl.cumsum(is_hit, 0) - 1, column, mask=is_hit > 0)
        found += tl.sum(is_hit, 0)
    return found


@triton.jit
def sum_of_prototypes(
    derivative, classes, prototypes, inverse_norms, number, D, CLASSES: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Sum (BLOCK_D,) of the unit prototypes of a list of classes, times d loss / d cosine of each."""
    column = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, number, CLASSES):
        place = start + tl.arange(0, CLASSES)
        g = tl.load(derivative + place, mask=place < number, other=0.0)
        mask = (place < number) & (g != 0)
        index = tl.load(classes + place, mask=mask, other=0)
        size = g * tl.load(inverse_norms + index, mask=mask, other=0.0)
        source = index[:, None].to(tl.int64) * D + column[None, :]
        w = tl.load(prototypes + source, mask=mask[:, None] & (column < D)[None, :], other=0.0)
        total += tl.sum(w * size[:, None], 0).to(tl.float32)
    return total


@triton.jit
def wide_rows(
    low_cosine, unit, prototypes, inverse_norms, threshold, count, classes, derivative, scratch, scratch_classes,
    towards, solution, target, target_cosine, target_logit, target_slope, target_log_q,
    loss, correct, support, posterior, batch, n, K, D, roundoff: tl.float64, scale: tl.float64, a: tl.float64,
    POWER: tl.constexpr, BLOCK: tl.constexpr, CLASSES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The rows with more candidates than places, in two lines (n,) of scratch for each program.

    Writes what `candidate_root` does of others, sum_j g_j w-hat_j in towards (B, D), and (3, B) float64 in solution:
    the largest logit, height and log of the total weight. Of the candidates only the target stays.
    """
    column = tl.arange(0, BLOCK_D)
    largest = 0
    for start in range(0, batch, BLOCK):
        place = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.max(tl.load(count + place, mask=place < batch, other=0), 0))
    line = scratch + tl.program_id(0).to(tl.int64) * n
    line_classes = scratch_classes + tl.program_id(0).to(tl.int64) * n
    # Mostly there is none, and the rows need not be asked one after the other.
    for row in range(tl.where(largest > K, tl.program_id(0), batch), batch, tl.num_programs(0)):
        if tl.load(count + row) > K:
            index = tl.load(target + row)
            x = tl.load(unit + row * D + column, mask=column < D, other=0.0)
            above = tl.load(threshold + row)
            low_line = low_cosine + tl.full((), row, tl.int64) * n
            number = classes_above(low_line, index, above, scale, line_classes, n, BLOCK)
            tl.debug_barrier()
            for start in range(0, number, CLASSES):
                place = start + tl.arange(0, CLASSES)
                chosen = tl.load(line_classes + place, mask=place < number, other=0)
                exact = exact_cosines(x, prototypes, inverse_norms, chosen, place < number, D, BLOCK_D)
                tl.store(line + place, exact, mask=place < number)
            tl.debug_barrier()
            own_derivative, top, height, log_total = divergence_row(
                line, row, -1, target_cosine, target_logit, target_slope, target_log_q,
                loss, correct, support, posterior, number, number, roundoff, scale, a, POWER, BLOCK,
            )  # fmt: skip
            tl.store(solution + row, top)
            tl.store(solution + batch + row, height)
            tl.store(solution + 2 * batch + row, log_total)
            tl.debug_barrier()
            total = sum_of_prototypes(line, line_classes, prototypes, inverse_norms, number, D, CLASSES, BLOCK_D)
            w = tl.load(prototypes + index * D + column, mask=column < D, other=0.0)
            total += (w * (own_derivative * tl.load(inverse_norms + index))).to(tl.float32)
            tl.store(towards + row * D + column, total, mask=column < D)
            tl.store(derivative + row * K, own_derivative)
            for start in range(1, K, BLOCK):
                place = start + tl.arange(0, BLOCK)
                tl.store(classes + row * K + place, tl.full((BLOCK,), 0, tl.int32) + n, mask=place < K)
            tl.debug_barrier()


@triton.jit
def candidate_embedding_gradient(
    unit, inverse_embedding_norms, prototypes, inverse_norms, classes, count, derivative, towards, factor, gradient,
    K, D, CLASSES: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients (B, D) of the embeddings: factor (sum_j g_j w-hat_j without its part along x-hat) / |x|."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.load(count + row)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    if number > K:
        total = tl.load(towards + row * D + column, mask=inside, other=0.0)
    else:
        total = sum_of_prototypes(
            derivative + row * K, classes + row * K, prototypes, inverse_norms, number, D, CLASSES, BLOCK_D
        )
    x = tl.load(unit + row * D + column, mask=inside, other=0.0)
    size = tl.load(inverse_embedding_norms + row) * tl.load(factor + row).to(tl.float64)
    own = tangent_over_norm(total[None, :], x[None, :], tl.full((1,), size, tl.float64))
    tl.store(gradient + row * D + column[None, :], own, mask=inside[None, :])
