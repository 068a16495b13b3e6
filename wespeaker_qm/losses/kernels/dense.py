"""Kernels for products of all embeddings with all prototypes, as exact as in float32, on the units for half precision.

Legend: B rows, n classes, D dimensions. A factor of float32 is the sum of three bfloat16 numbers; of the products of
these parts, the six that float32 can show are added up in float32, in groups of DEPTH terms, the least ones first
(``bf16x6``). Prototypes become unit vectors on their way: none are stored.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.vectors import inverse_norm, tangent_over_norm


@triton.jit
def cosines(
    unit, prototypes, cosine, inverse_norms, batch, n, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Cosines (B, n) float32 of unit vectors (B, D) and prototypes (n, D), and of these 1 / norms (n,) float64."""
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    index = tl.program_id(0).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    is_row, is_class = row < batch, index < n
    square = tl.zeros((CLASSES,), tl.float64)
    for start in range(0, D, DEPTH):
        column = start + tl.arange(0, DEPTH)
        mask = is_class[:, None] & (column < D)[None, :]
        w = tl.load(prototypes + index[:, None] * D + column[None, :], mask=mask, other=0.0).to(tl.float64)
        square += tl.sum(w * w, 1)
    inverse = inverse_norm(square)
    if tl.program_id(1) == 0:
        tl.store(inverse_norms + index, inverse, mask=is_class)
    total = tl.zeros((ROWS, CLASSES), tl.float32)
    for start in range(0, D, DEPTH):
        column = start + tl.arange(0, DEPTH)
        is_column = column < D
        w = tl.load(
            prototypes + index[:, None] * D + column[None, :], mask=is_class[:, None] & is_column[None, :], other=0.0
        )
        w = (w.to(tl.float64) * inverse[:, None]).to(tl.float32)
        x = tl.load(unit + row[:, None] * D + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0)
        total += tl.dot(x, tl.trans(w), input_precision=PRECISION)
    tl.store(cosine + row[:, None] * n + index[None, :], total, mask=is_row[:, None] & is_class[None, :])


@triton.jit
def embedding_sums(
    derivative, prototypes, inverse_norms, sums, batch, n, D, part_size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums (P, B, D) of d loss / d cosine (B, n) times unit prototypes, each over its part of the classes."""
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = row < batch, column < D
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(part * part_size, tl.minimum((part + 1) * part_size, n), DEPTH):
        index = (start + tl.arange(0, DEPTH)).to(tl.int64)
        is_class = index < n
        g = tl.load(derivative + row[:, None] * n + index[None, :], mask=is_row[:, None] & is_class[None, :], other=0.0)
        w = tl.load(
            prototypes + index[:, None] * D + column[None, :], mask=is_class[:, None] & is_column[None, :], other=0.0
        )
        inverse = tl.load(inverse_norms + index, mask=is_class, other=0.0)
        w = (w.to(tl.float64) * inverse[:, None]).to(tl.float32)
        total += tl.dot(g, w, input_precision=PRECISION)
    place = (part * batch + row)[:, None] * D + column[None, :]
    tl.store(sums + place, total, mask=is_row[:, None] & is_column[None, :])


@triton.jit
def embedding_gradient(
    sums, unit, inverse_norms, factor, gradient, batch, D, num_parts, PARTS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Gradients (B, D) of the embeddings from the parts' sums (P, B, D), a program a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    is_column = column < D
    towards = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, num_parts, PARTS):
        part = start + tl.arange(0, PARTS)
        mask = (part < num_parts)[:, None] & is_column[None, :]
        towards += tl.sum(tl.load(sums + (part * batch + row)[:, None] * D + column[None, :], mask=mask, other=0.0), 0)
    x = tl.load(unit + row * D + column, mask=is_column, other=0.0)
    size = tl.load(inverse_norms + row) * tl.load(factor + row).to(tl.float64)
    own = tangent_over_norm(towards[None, :], x[None, :], tl.full((1,), size, tl.float64))
    place = gradient + row * D + column[None, :]
    tl.store(place, own, mask=is_column[None, :])


@triton.jit
def prototype_gradient(
    derivative, factor, unit, prototypes, inverse_norms, gradient, batch, n, D,
    CLASSES: tl.constexpr, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients (n, D) of the prototypes from d loss / d cosine (B, n), times a factor of each row."""
    index = tl.program_id(0).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    column = tl.arange(0, BLOCK_D)
    is_class, is_column = index < n, column < D
    total = tl.zeros((CLASSES, BLOCK_D), tl.float32)
    for start in range(0, batch, DEPTH):
        row = (start + tl.arange(0, DEPTH)).to(tl.int64)
        is_row = row < batch
        g = tl.load(derivative + row[:, None] * n + index[None, :], mask=is_row[:, None] & is_class[None, :], other=0.0)
        g = g * tl.load(factor + row, mask=is_row, other=0.0)[:, None]
        x = tl.load(unit + row[:, None] * D + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0)
        total += tl.dot(tl.trans(g), x, input_precision=PRECISION)
    mask = is_class[:, None] & is_column[None, :]
    place = index[:, None] * D + column[None, :]
    w = tl.load(prototypes + place, mask=mask, other=0.0)
    inverse = tl.load(inverse_norms + index, mask=is_class, other=0.0)
    direction = (w.to(tl.float64) * inverse[:, None]).to(tl.float32)
    tl.store(gradient + place, tangent_over_norm(total, direction, inverse), mask=mask)
