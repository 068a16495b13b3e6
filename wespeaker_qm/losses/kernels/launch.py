"""How kernels are started: sizes of blocks and programs, and arguments in the form that the kernels take."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses.kernels import dense, vectors

_MARGINS = {"reference": 0, "angular": 1, "easy_angular": 2}
_BLOCK_ELEMENTS = 4096  # of vectors that one program holds
_ROWS, _CLASSES, _COLUMNS = 128, 64, 128  # of a tile of a product, which one program computes
_WARP_ELEMENTS = 2048  # of a tile of the prototypes' gradient, that a warp of a program holds
_DEPTH = 32  # terms of it that are added up before they go to the sum
_LEAST_PART, _MOST_PARTS = 256, 64  # of the classes, over which one program adds up
_PARTS = 16  # that are added up together


class Target(NamedTuple):
    """`losses.margins.TargetLogit` and the cosine that it is of, (B,) float64 each."""

    cosine: Tensor
    logit: Tensor
    slope: Tensor
    log_q: Tensor


def power_of(a: float) -> int:
    """1 / a where that is 1, 2, 3 or 4, of which products are exact; else 0."""
    nearest = round(1 / a)
    return nearest if nearest <= 4 and abs(1 / a - nearest) < 1e-12 else 0


def whole(number: int, size: int) -> int:
    """How many of a size hold a number. Triton's own such functions take as long to call as a kernel to start."""
    return -(-number // size)


def power_of_two(number: int) -> int:
    """The smallest one that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def unit_vectors(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit vectors of rows (N, D), in a type, and 1 / norm (N,) float64."""
    num_rows, dim = rows.shape
    unit = torch.empty_like(rows, dtype=dtype)
    inverse_norms = rows.new_empty(num_rows, dtype=torch.float64)
    grid, sizes = _row_blocks(num_rows, dim)
    vectors.unit_rows[grid](rows, unit, inverse_norms, num_rows, dim, **sizes)
    return unit, inverse_norms


def embedding_terms(
    embedding: Tensor, prototypes: Tensor, target: Tensor, scale: float, margin: float, kind: str
) -> tuple[Tensor, Tensor, Target]:
    """Unit embeddings (B, D), 1 / norms (B,) float64, and the targets' logits; NaN for a target that is no class."""
    batch, dim = embedding.shape
    unit = torch.empty_like(embedding)
    inverse_norms, *terms = embedding.new_empty(5, batch, dtype=torch.float64)
    vectors.embedding_terms[(batch,)](
        embedding, prototypes, target, unit, inverse_norms, *terms, len(prototypes), dim,
        scale, margin, math.cos(margin), math.sin(margin),
        MARGIN=_MARGINS[kind], BLOCK_D=power_of_two(dim),
    )  # fmt: skip
    return unit, inverse_norms, Target(*terms)


def cosines(unit: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines (B, n and a few more) of unit vectors (B, D) and prototypes (n, D), and 1 / norms of these (n,) float64.

    A line of cosines is a multiple of 16 long, so that several are loaded at once.
    """
    (batch, dim), num_classes = unit.shape, prototypes.shape[0]
    cosine = unit.new_empty(batch, 16 * whole(num_classes, 16))
    inverse_norms = unit.new_empty(num_classes, dtype=torch.float64)
    dense.cosines[(whole(num_classes, _CLASSES), whole(batch, _ROWS))](
        unit, prototypes, cosine, inverse_norms, batch, num_classes, cosine.shape[1], dim,
        ROWS=_ROWS, CLASSES=_CLASSES, DEPTH=_DEPTH, WIDTH=_CLASSES, num_warps=8,
    )  # fmt: skip
    return cosine, inverse_norms


def embedding_gradient(
    derivative: Tensor,
    factor: Tensor,
    unit: Tensor,
    inverse_norms: Tensor,
    prototypes: Tensor,
    inverse_prototype_norms: Tensor,
) -> Tensor:
    """Gradients (B, D) of the embeddings from d loss / d cosine (B, n), times a factor (B,)."""
    (num_classes, dim), (batch, stride) = prototypes.shape, derivative.shape
    part_size = max(_LEAST_PART, _DEPTH * whole(num_classes, _DEPTH * _MOST_PARTS))
    num_parts = whole(num_classes, part_size)
    width = max(16, power_of_two(dim))
    columns = min(_COLUMNS, width)
    sums = unit.new_empty(num_parts, batch, dim)
    dense.embedding_sums[(num_parts, whole(batch, _ROWS), whole(dim, columns))](
        derivative, prototypes, inverse_prototype_norms, sums, batch, num_classes, stride, dim, part_size,
        ROWS=_ROWS, COLUMNS=columns, DEPTH=_DEPTH, num_warps=8,
    )  # fmt: skip
    gradient = torch.empty_like(unit)
    dense.embedding_gradient[(batch,)](
        sums, unit, inverse_norms, factor, gradient, batch, dim, num_parts, PARTS=_PARTS, BLOCK_D=width
    )
    return gradient


def prototype_gradient(
    derivative: Tensor, factor: Tensor, unit: Tensor, prototypes: Tensor, inverse_norms: Tensor
) -> Tensor:
    """Gradients (n, D) of the prototypes from d loss / d cosine (B, n), times a factor (B,)."""
    (num_classes, dim), (batch, stride) = prototypes.shape, derivative.shape
    width = max(16, power_of_two(dim))
    warps = 4 if width <= 256 else 8  # of fewer threads, more programs are there at a time
    classes = min(_CLASSES, max(16, _WARP_ELEMENTS * warps // width))
    gradient = torch.empty_like(prototypes)
    dense.prototype_gradient[(whole(num_classes, classes),)](
        derivative, factor, unit, prototypes, inverse_norms, gradient, batch, num_classes, stride, dim,
        CLASSES=classes, DEPTH=_DEPTH, BLOCK_D=width, num_warps=warps, num_stages=1,
    )  # fmt: skip
    return gradient


def _row_blocks(num_rows: int, dim: int) -> tuple[tuple[int], dict[str, int]]:
    width = power_of_two(dim)
    height = max(1, _BLOCK_ELEMENTS // width)
    return (whole(num_rows, height),), {"ROWS": height, "BLOCK_D": width}
