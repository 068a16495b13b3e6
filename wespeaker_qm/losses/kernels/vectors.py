"""Kernels on rows of vectors: unit vectors, the target's logit, and gradients along the sphere.

Legend: B rows, n classes, D dimensions. Norms are float64, in which each vector of float32 has one.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.newton import as_double


@triton.jit
def inverse_norm(square):
    """1 / norm of squared norms, float64; a zero row has 0."""
    norm = tl.sqrt(square)
    return tl.where(norm == 0, 0.0, 1 / tl.where(norm == 0, 1.0, norm))


@triton.jit
def tangent_over_norm(towards, direction, size):
    """From gradients (N, D) towards unit vectors those of the vectors: without the radial part, times (N,) 1 / norms.

    Finite gradients stay so: at most the largest float32.
    """
    towards = towards - direction * tl.sum(towards * direction, 1)[:, None]
    own = towards.to(tl.float64) * size[:, None]
    largest = 3.4028234663852886e38
    return tl.where(own > largest, largest, tl.where(own < -largest, -largest, own)).to(tl.float32)


@triton.jit
def unit_rows(rows, unit, inverse_norms, num_rows, D, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows (N, D) over their norms, in the type of ``unit``, and 1 / norm (N,) float64; a zero row has 0 for both."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_D)
    place = row[:, None] * D + column[None, :]
    mask = (row[:, None] < num_rows) & (column[None, :] < D)
    value = tl.load(rows + place, mask=mask, other=0.0).to(tl.float64)
    inverse = inverse_norm(tl.sum(value * value, 1))
    tl.store(unit + place, (value * inverse[:, None]).to(tl.float32).to(unit.dtype.element_ty), mask=mask)
    tl.store(inverse_norms + row, inverse, mask=row < num_rows)


@triton.jit
def embedding_terms(
    embedding, prototypes, target, unit, inverse_norms, cosine, logit, slope, log_q, n, D,
    scale: tl.float64, margin: tl.float64, cos_margin: tl.float64, sin_margin: tl.float64,
    MARGIN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Unit embeddings (B, D), 1 / norms (B,) float64, and of each row's target, (B,) float64 each, the cosine and
    `losses.margins.target_logit` of it; NaN if it is no class. A program a row.

    MARGIN is 0 for reference, 1 for angular, 2 for easy_angular.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    x = tl.load(embedding + row * D + column, mask=column < D, other=0.0).to(tl.float64)
    inverse = inverse_norm(tl.sum(x * x, 0))
    direction = (x * inverse).to(tl.float32)
    tl.store(unit + row * D + column, direction, mask=column < D)
    tl.store(inverse_norms + row, inverse)
    index = tl.load(target + row)
    is_class = (index >= 0) & (index < n)
    index = tl.where(is_class, index, 0).to(tl.int64)
    w = tl.load(prototypes + index * D + column, mask=column < D, other=0.0).to(tl.float64)
    c = tl.sum(direction.to(tl.float64) * w * inverse_norm(tl.sum(w * w, 0)), 0)
    c = tl.where(c > 1, 1.0, tl.where(c < -1, -1.0, c))
    c = tl.where(is_class, c, float("nan"))
    tl.store(cosine + row, c)
    s = as_double(scale)
    if MARGIN == 0:
        tl.store(logit + row, s * c)
        tl.store(slope + row, s)
        tl.store(log_q + row, -s * margin)
    else:
        sine_squared = (1 - c) * (1 + c)
        sine = tl.sqrt(tl.maximum(sine_squared, 0.0))
        cotangent = tl.where(sine > 0, c / tl.where(sine > 0, sine, 1.0), 0.0)
        if MARGIN == 1:
            is_curved = c > -cos_margin
            elsewhere = c - (1 - cos_margin)
        else:
            is_curved = c > 0
            elsewhere = c
        tl.store(logit + row, s * tl.where(is_curved, c * cos_margin - sine * sin_margin, elsewhere))
        tl.store(slope + row, s * tl.where(is_curved, cos_margin + sin_margin * cotangent, 1.0))
        tl.store(log_q + row, s * 0)
