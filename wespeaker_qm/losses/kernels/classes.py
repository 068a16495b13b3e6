"""Kernels on the prototypes, a program a class: their gradient, its norm, and the step of SGD that follows from it.

Legend: B rows, n classes, D dimensions, K places for the candidates of a row. What a class has of the candidates, its
entries, is a part of ``order``, from its offset to the next one's: entry // K is the row. The rows with more than K
candidates are asked one after the other.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.newton import as_double, weights
from wespeaker_qm.losses.kernels.vectors import inverse_norm, tangent_over_norm


@triton.jit
def is_moved(index, offsets, num_wide):
    """Whether a class has a gradient at all: an entry, or a row that might have any class."""
    return (tl.load(offsets + index) < tl.load(offsets + index + 1)) | (tl.load(num_wide) > 0)


@triton.jit
def class_gradient(
    w, index, inverse, unit, order, offsets, derivative, target, count, num_wide, solution, factor,
    batch, K, D, scale, a, POWER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient (BLOCK_D,) of a prototype w (BLOCK_D,): its entries in the order of rows, then the wide rows."""
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    total = tl.zeros((BLOCK_D,), tl.float32)
    for number in range(tl.load(offsets + index), tl.load(offsets + index + 1)):
        entry = tl.load(order + number)
        row = entry // K
        g = tl.load(derivative + entry)
        if g != 0:
            g = g * tl.load(factor + row)
            total += g * tl.load(unit + row * D + column, mask=inside, other=0.0)
    direction = (w.to(tl.float64) * inverse).to(tl.float32)
    if tl.load(num_wide) > 0:
        for row in range(0, batch):
            if (tl.load(count + row) > K) & (tl.load(target + row) != index):
                x = tl.load(unit + row * D + column, mask=inside, other=0.0)
                cosine = tl.sum(direction * x, 0)
                cosine = tl.where(cosine > 1, 1.0, tl.where(cosine < -1, -1.0, cosine))
                top = tl.load(solution + row)
                height = tl.load(solution + batch + row)
                log_total = tl.load(solution + 2 * batch + row)
                gap = (top.to(tl.float32) - cosine * as_double(scale).to(tl.float32)) * as_double(a).to(tl.float32)
                unit_log = log_total if POWER == 0 else log_total * 0
                weight, _ = weights(gap, height, as_double(a), unit_log, POWER)
                mass = weight if POWER == 0 else weight * tl.exp(-log_total).to(tl.float32)
                total += mass * as_double(scale).to(tl.float32) * tl.load(factor + row) * x
    own = tangent_over_norm(total[None, :], direction[None, :], tl.full((1,), inverse, tl.float64))
    return tl.reshape(own, (BLOCK_D,))


@triton.jit
def keep_unit(w, index, inverse_norms, low, D, BLOCK_D: tl.constexpr):
    """Write a prototype w (BLOCK_D,) over its norm, in the type of ``low``, and 1 / norm; a zero row has 0 for both."""
    column = tl.arange(0, BLOCK_D)
    wide = w.to(tl.float64)
    inverse = inverse_norm(tl.sum(wide * wide, 0))
    tl.store(low + index * D + column, (wide * inverse).to(tl.float32).to(low.dtype.element_ty), mask=column < D)
    tl.store(inverse_norms + index, inverse)


@triton.jit
def unit_prototypes(prototypes, inverse_norms, low, D, BLOCK_D: tl.constexpr):
    """Unit prototypes (n, D) and 1 / norms (n,) float64, to the bits of what `prototype_step` leaves of the same rows.

    So it does not show in a training when somebody read the rows again, as at a checkpoint.
    """
    index = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    w = tl.load(prototypes + index * D + column, mask=column < D, other=0.0)
    keep_unit(w, index, inverse_norms, low, D, BLOCK_D)


@triton.jit
def candidate_prototype_gradient(
    prototypes, inverse_norms, unit, order, offsets, derivative, target, count, num_wide, solution, factor, gradient,
    batch, K, D, scale: tl.float64, a: tl.float64, POWER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients (n, D) of the prototypes."""
    index = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    if is_moved(index, offsets, num_wide):
        w = tl.load(prototypes + index * D + column, mask=inside, other=0.0)
        own = class_gradient(
            w, index, tl.load(inverse_norms + index), unit, order, offsets, derivative, target, count, num_wide,
            solution, factor, batch, K, D, scale, a, POWER, BLOCK_D,
        )  # fmt: skip
        tl.store(gradient + index * D + column, own, mask=inside)
    else:
        tl.store(gradient + index * D + column, tl.zeros((BLOCK_D,), tl.float32), mask=inside)


@triton.jit
def squared_gradient_norms(
    prototypes, inverse_norms, unit, order, offsets, derivative, target, count, num_wide, solution, factor, square,
    batch, K, D, scale: tl.float64, a: tl.float64, POWER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Squared norms (n,) float64 of the gradients; a prototype without one is not read."""
    index = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    if is_moved(index, offsets, num_wide):
        w = tl.load(prototypes + index * D + column, mask=column < D, other=0.0)
        own = class_gradient(
            w, index, tl.load(inverse_norms + index), unit, order, offsets, derivative, target, count, num_wide,
            solution, factor, batch, K, D, scale, a, POWER, BLOCK_D,
        ).to(tl.float64)  # fmt: skip
        tl.store(square + index, tl.sum(own * own, 0))
    else:
        tl.store(square + index, 0.0)


@triton.jit
def prototype_step(
    prototypes, inverse_norms, unit, order, offsets, derivative, target, count, num_wide, solution, factor, momenta,
    low, is_stopped, batch, K, D, scale: tl.float64, a: tl.float64, rate, momentum, decay,
    NESTEROV: tl.constexpr, POWER: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A step of SGD, in place, of prototypes and momenta (n, D), with the gradients that are written nowhere.

    Writes what the next step's filter begins with, too: unit prototypes (n, D) in the type of ``low``, and 1 / norms
    (n,). Nothing is changed where the number at ``is_stopped`` is not 0.
    """
    if tl.load(is_stopped) == 0:
        index = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK_D)
        inside = column < D
        place = index * D + column
        w = tl.load(prototypes + place, mask=inside, other=0.0)
        own = class_gradient(
            w, index, tl.load(inverse_norms + index), unit, order, offsets, derivative, target, count, num_wide,
            solution, factor, batch, K, D, scale, a, POWER, BLOCK_D,
        )  # fmt: skip
        decayed = own + decay * w
        towards = decayed
        if momentum != 0:
            m = momentum * tl.load(momenta + place, mask=inside, other=0.0) + decayed
            towards = decayed + momentum * m if NESTEROV else m
            tl.store(momenta + place, m, mask=inside)
        w -= rate * towards
        tl.store(prototypes + place, w, mask=inside)
        keep_unit(w, index, inverse_norms, low, D, BLOCK_D)
