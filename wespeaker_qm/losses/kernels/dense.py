"""Kernels for products of all embeddings with all prototypes, as exact as in float32, on the units for half precision.

Legend: B rows, n classes, D dimensions; lines of n values are ``stride`` apart, a multiple of 16. A factor of float32
is the sum of two float16 numbers; of the products of these halves, the three that float32 can show are added up in
float32 in groups of DEPTH terms, and the groups then one by one: the units cut sums off, where others round. Prototypes
become unit vectors on their way: none are stored.
"""

import triton
import triton.language as tl

from wespeaker_qm.losses.kernels.vectors import inverse_norm, tangent_over_norm


@triton.jit
def halves(x):
    """Two float16 numbers whose sum is 1024 times a float32 number below 2, to 2^-24 of it (and at least to 2^-25)."""
    wide = x * 1024.0
    high = wide.to(tl.float16)
    return high, (wide - high.to(tl.float32)).to(tl.float16)


@triton.jit
def product(a, b):
    """Of matrices of float32 numbers below 2, float32."""
    a_high, a_low = halves(a)
    b_high, b_low = halves(b)
    total = tl.dot(a_high, b_low)
    total = tl.dot(a_low, b_high, total)
    total = tl.dot(a_high, b_high, total)
    return total * 0.00000095367431640625  # 2^-20


@triton.jit
def sizes(x, AXIS: tl.constexpr):
    """Powers of two that are not above the largest absolute values along an axis, and not below half of them.

    What is NaN does not count; it stays one whatever it is divided by.
    """
    largest = tl.max(tl.where(x == x, tl.abs(x), 0.0), AXIS)
    power = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    return tl.maximum(power, 7.703719777548943e-34)  # 2^-110, of which the inverse is a number, too


@triton.jit
def cosines(
    unit, prototypes, cosine, inverse_norms, batch, n, stride, D,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Cosines (B, n) float32 of unit vectors (B, D) and prototypes (n, D), and of these 1 / norms (n,) float64."""
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    index = tl.program_id(0).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    is_row, is_class = row < batch, index < n
    square = tl.zeros((CLASSES,), tl.float64)
    for start in range(0, D, WIDTH):
        column = start + tl.arange(0, WIDTH)
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
        total += product(x, tl.trans(w))
    tl.store(cosine + row[:, None] * stride + index[None, :], total, mask=is_row[:, None] & (index < stride)[None, :])


@triton.jit
def embedding_sums(
    derivative, prototypes, inverse_norms, sums, batch, n, stride, D, part_size,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
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
        g = tl.load(
            derivative + row[:, None] * stride + index[None, :],
            mask=is_row[:, None] & (index < stride)[None, :],
            other=0.0,
        )
        w = tl.load(
            prototypes + index[:, None] * D + column[None, :], mask=is_class[:, None] & is_column[None, :], other=0.0
        )
        inverse = tl.load(inverse_norms + index, mask=is_class, other=0.0)
        w = (w.to(tl.float64) * inverse[:, None]).to(tl.float32)
        size = sizes(g, 1)
        total += product(g * (1 / size)[:, None], w) * size[:, None]
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
    tl.store(gradient + row * D + column[None, :], own, mask=is_column[None, :])


@triton.jit
def prototype_gradient(
    derivative, factor, unit, prototypes, inverse_norms, gradient, batch, n, stride, D,
    CLASSES: tl.constexpr, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients (n, D) of the prototypes from d loss / d cosine (B, n), times a factor of each row."""
    index = tl.program_id(0).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    column = tl.arange(0, BLOCK_D)
    is_class, is_column = index < n, column < D
    across = tl.zeros((BLOCK_D, CLASSES), tl.float32)
    for start in range(0, batch, DEPTH):
        row = (start + tl.arange(0, DEPTH)).to(tl.int64)
        is_row = row < batch
        g = tl.load(
            derivative + row[:, None] * stride + index[None, :],
            mask=is_row[:, None] & (index < stride)[None, :],
            other=0.0,
        )
        g = g * tl.load(factor + row, mask=is_row, other=0.0)[:, None]
        x = tl.load(unit + row[:, None] * D + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0)
        size = sizes(g, 0)
        # Across, since the units for products want many rows.
        across += product(tl.trans(x), g * (1 / size)[None, :]) * size[None, :]
    mask = is_class[:, None] & is_column[None, :]
    place = index[:, None] * D + column[None, :]
    w = tl.load(prototypes + place, mask=mask, other=0.0)
    inverse = tl.load(inverse_norms + index, mask=is_class, other=0.0)
    direction = (w.to(tl.float64) * inverse[:, None]).to(tl.float32)
    tl.store(gradient + place, tangent_over_norm(tl.trans(across), direction, inverse), mask=mask)
