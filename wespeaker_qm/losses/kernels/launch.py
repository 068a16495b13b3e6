"""How kernels are started: sizes of blocks and programs, and arguments in the form that the kernels take."""

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from wespeaker_qm.losses.kernels.vectors import tangential, target_terms, unit_rows

_MARGINS = {"reference": 0, "angular": 1, "easy_angular": 2}
_BLOCK_ELEMENTS = 4096  # of vectors that one program holds


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


def unit_vectors(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit vectors of rows (N, D), in a type, and 1 / norm (N,) float64."""
    num_rows, dim = rows.shape
    unit = torch.empty_like(rows, dtype=dtype)
    inverse_norms = rows.new_empty(num_rows, dtype=torch.float64)
    grid, sizes = _row_blocks(num_rows, dim)
    unit_rows[grid](rows, unit, inverse_norms, num_rows, dim, **sizes)
    return unit, inverse_norms


def target_of(
    unit: Tensor, prototypes: Tensor, inverse_norms: Tensor, target: Tensor, scale: float, margin: float, kind: str
) -> Target:
    """The targets' logits, in float64; NaN for a target that is no class."""
    batch, dim = unit.shape
    terms = Target(*unit.new_empty(4, batch, dtype=torch.float64))
    target_terms[(batch,)](
        unit, prototypes, inverse_norms, target, *terms, len(prototypes), dim,
        scale, margin, math.cos(margin), math.sin(margin),
        MARGIN=_MARGINS[kind], BLOCK_D=triton.next_power_of_2(dim),
    )  # fmt: skip
    return terms


def make_tangential(gradient: Tensor, unit: Tensor, inverse_norms: Tensor, factor: Tensor | None) -> Tensor:
    """In place, from gradients towards unit vectors (N, D), times a factor (N,), those of the vectors."""
    num_rows, dim = gradient.shape
    grid, sizes = _row_blocks(num_rows, dim)
    tangential[grid](
        gradient, unit, inverse_norms, gradient if factor is None else factor, num_rows, dim,
        HAS_FACTOR=factor is not None, **sizes,
    )  # fmt: skip
    return gradient


def _row_blocks(num_rows: int, dim: int) -> tuple[tuple[int], dict[str, int]]:
    width = triton.next_power_of_2(dim)
    height = max(1, _BLOCK_ELEMENTS // width)
    return (triton.cdiv(num_rows, height),), {"ROWS": height, "BLOCK_D": width}
