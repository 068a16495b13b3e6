"""Gradients of a function of cosines to embeddings and prototypes, from d loss / d cosine, dense or sparse.

Legend: B rows, n classes, D dimensions; g_bj = d loss / d cos_bj; x-hat, w-hat unit vectors. `linear` has the formulas.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_ROWS = 2048  # prototypes that are worked on together: what stays in a core's cache


def inverse(norm: Tensor) -> Tensor:
    """1 / norm elementwise; 0 for a norm that is too small to square: such a vector has no direction."""
    return torch.where(norm.square() > torch.finfo(norm.dtype).tiny, 1 / norm, 0.0)


def unit_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, D) over their norms, and the inverse norms (B,); zero rows stay zero."""
    # In float64: an error of the norm would be common to all components, and so to all cosines.
    precise = vectors.double()
    inverse_norm = inverse(torch.linalg.vector_norm(precise, dim=1))
    return (precise * inverse_norm[:, None]).to(vectors), inverse_norm.to(vectors)


class Entries(NamedTuple):
    """The g that are not zero: row, class (column) and value, (N,) each, sorted by row."""

    row: Tensor
    column: Tensor
    value: Tensor


def entries_of(others: Tensor, classes: Tensor, target_value: Tensor, target: Tensor) -> Entries:
    """Entries from a padded matrix (B, K) of g and its classes, and the targets' g; target -1 is another process's."""
    own = torch.where(target >= 0, target_value, 0.0)
    matrix = torch.cat([others, own[:, None]], dim=1)
    index = torch.cat([classes, target.clamp(min=0)[:, None]], dim=1)
    row, column = (matrix != 0).nonzero(as_tuple=True)
    return Entries(row, index[row, column], matrix[row, column])


def matrix_of(chunks: list[Tensor], scale: float, target_value: Tensor, target: Tensor) -> list[Tensor]:
    """Turn chunks of posteriors (B, width) into g, in place; target -1 is another process's."""
    start = 0
    for chunk in chunks:
        stop = start + chunk.shape[1]
        chunk.mul_(scale)
        (row,) = ((target >= start) & (target < stop)).nonzero(as_tuple=True)
        chunk[row, target[row] - start] = target_value[row].to(chunk)
        start = stop
    return chunks


def of_entries(
    entries: Entries, factor: Tensor, unit: Tensor, prototypes: Tensor, inverse_norms: Tensor, *, sparse: bool
) -> tuple[Tensor, Tensor]:
    """From g in entries, times ``factor`` (B,) of its row.

    Returns:
        sum_j g_bj w-hat_j (B, D), and the prototypes' gradient (n, D), coalesced sparse if ``sparse``.
    """
    row, index, value = entries
    value = value.to(factor) * factor[row] * inverse_norms[index]
    towards = _bag(prototypes, index, value, torch.bincount(row, minlength=len(unit)))
    index, order = index.sort(stable=True)
    touched, count = torch.unique_consecutive(index, return_counts=True)
    grad = _bag(unit, row[order], value[order], count)
    for start in range(0, len(touched), _BLOCK_ROWS):
        part = touched[start : start + _BLOCK_ROWS]
        rows = prototypes.index_select(0, part)  # several times faster than prototypes[part]
        _remove_radial(grad[start : start + _BLOCK_ROWS], rows, inverse_norms[part])
    if sparse:
        size = tuple(prototypes.shape)
        return towards, torch.sparse_coo_tensor(touched[None], grad, size, is_coalesced=True, check_invariants=False)
    return towards, torch.zeros_like(prototypes).index_copy_(0, touched, grad)


def of_matrix(
    chunks: list[Tensor], factor: Tensor, unit: Tensor, prototypes: Tensor, inverse_norms: Tensor
) -> tuple[Tensor, Tensor]:
    """As `of_entries`, from g in chunks (B, width)."""
    towards = torch.zeros_like(unit)
    grad = torch.empty_like(prototypes)
    weighted = unit * factor[:, None]
    start = 0
    for chunk in chunks:
        part = slice(start, start + chunk.shape[1])
        chunk = chunk * inverse_norms[part]
        towards.addmm_(chunk, prototypes[part])
        torch.mm(chunk.T, weighted, out=grad[part])
        _remove_radial(grad[part], prototypes[part], inverse_norms[part])
        start += chunk.shape[1]
    return towards * factor[:, None], grad


def _bag(table: Tensor, index: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Sums of ``count`` (N,) consecutive weighted rows of ``table`` each, (N, D)."""
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


def _remove_radial(grad: Tensor, prototypes: Tensor, inverse_norms: Tensor) -> None:
    """Take the part along the prototypes out of their gradients (N, D), in place."""
    radial = (grad * prototypes).sum(1) * inverse_norms.square()
    grad.addcmul_(prototypes, radial[:, None], value=-1)
