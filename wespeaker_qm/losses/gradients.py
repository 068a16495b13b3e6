"""Gradients of a function of cosines to embeddings and prototypes, from d loss / d cosine, dense or sparse.

Legend: B rows, n classes, D dimensions; g_bj = d loss / d cos_bj; x-hat, w-hat unit vectors. `linear` has the formulas.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_ROWS = 2048  # prototypes that are worked on together: what stays in a core's cache


class Vectors(NamedTuple):
    """Rows (N, D) as the head computes with them, and 1 / norm of each (N,), 0 for a zero row, which has no direction.

    ``exponents`` (N,) is None, or rows are the vectors times 2^-exponents: a cosine does not know the norm, but its
    square and inverse must be numbers of the type.
    """

    rows: Tensor
    inverse_norms: Tensor
    exponents: Tensor | None


def in_range(vectors: Tensor) -> Vectors:
    """Vectors (N, D) themselves, or where some have an extreme norm a copy in which these are of ordinary size.

    A row with an infinite or NaN component is left alone: its cosines are NaN.
    """
    norms = torch.linalg.vector_norm(vectors, dim=1)
    (extreme,) = (~ordinary_norms(norms)).nonzero(as_tuple=True)
    rows, exponents = vectors, None
    if len(extreme):
        found = vectors.index_select(0, extreme)
        largest = found.abs().amax(1)
        exponent = torch.where(largest.isfinite(), torch.frexp(largest).exponent, 0)
        if exponent.any():
            scaled = _times_power_of_two(found, -exponent)
            norms = norms.index_copy(0, extreme, torch.linalg.vector_norm(scaled, dim=1))
            rows = vectors.index_copy(0, extreme, scaled)
            exponents = exponent.new_zeros(len(vectors)).index_copy_(0, extreme, exponent)
    return Vectors(rows, _inverse(norms), exponents)


def ordinary_norms(norms: Tensor) -> Tensor:
    """Whether the squares of norms, and their inverses, are numbers of the type, and small against its largest."""
    smallest = math.sqrt(torch.finfo(norms.dtype).tiny) / torch.finfo(norms.dtype).eps
    return (norms >= smallest) & (norms <= 1 / smallest)


def at_own_norms(gradient: Tensor, exponents: Tensor | None) -> Tensor:
    """From a gradient (N, D) for the rows of `in_range`, that for the vectors; at most the largest number of the type.

    The gradient goes with 1 / norm. A row so short that it would overflow has a gradient all the same.
    """
    if exponents is None:
        return gradient
    largest = torch.finfo(gradient.dtype).max
    own = _times_power_of_two(gradient, -exponents)
    return torch.where(gradient.isfinite(), own.clamp(-largest, largest), own)


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows (B, D) over their norms; zero rows stay zero."""
    # In float64: an error of the norm would be common to all components, and so to all cosines.
    precise = vectors.double()
    return (precise * _inverse(torch.linalg.vector_norm(precise, dim=1))[:, None]).to(vectors)


def _inverse(norms: Tensor) -> Tensor:
    return torch.where(norms == 0, 0.0, 1 / norms)


def _times_power_of_two(rows: Tensor, exponents: Tensor) -> Tensor:
    """Rows (N, D) times 2^exponents (N,), which itself may be no number of the type."""
    half = exponents // 2
    first, second = (torch.exp2(part.to(rows))[:, None] for part in (half, exponents - half))
    return rows * first * second


class Entries(NamedTuple):
    """The g that are not zero: row, class (column) and value, (N,) each, sorted by row."""

    row: Tensor
    column: Tensor
    value: Tensor


def entries_of(others: Tensor, classes: Tensor, target_value: Tensor, target: Tensor) -> Entries:
    """List the g that are not zero.

    Args:
        others: (B, K) g of classes that are not the target, padded with 0.
        classes: (B, K) which classes.
        target_value: (B,) g of the target.
        target: (B,) its class, or -1 where another process holds it.
    """
    own = torch.where(target >= 0, target_value, 0.0)
    matrix = torch.cat([others, own[:, None]], dim=1)
    index = torch.cat([classes, target.clamp(min=0)[:, None]], dim=1)
    row, column = (matrix != 0).nonzero(as_tuple=True)
    return Entries(row, index[row, column], matrix[row, column])


def matrix_of(chunks: list[Tensor], scale: float, target_value: Tensor, target: Tensor) -> list[Tensor]:
    """Turn posteriors into g, in place.

    Args:
        chunks: (B, width) each, posteriors of one range of classes after another.
        scale: s; of classes that are not the target, g is s times the posterior.
        target_value: (B,) g of the target.
        target: (B,) its class, or -1 where another process holds it.
    """
    start = 0
    for chunk in chunks:
        stop = start + chunk.shape[1]
        chunk.mul_(scale)
        (row,) = ((target >= start) & (target < stop)).nonzero(as_tuple=True)
        chunk[row, target[row] - start] = target_value[row].to(chunk)
        start = stop
    return chunks


def of_entries(
    entries: Entries, factor: Tensor, unit: Tensor, prototypes: Vectors, *, sparse: bool
) -> tuple[Tensor, Tensor]:
    """Gradients from g in entries.

    Args:
        entries: the g that are not zero.
        factor: (B,) what each row's g is multiplied by.
        unit: (B, D) unit embeddings.
        prototypes: n of them.
        sparse: make the prototypes' gradient a sparse tensor.

    Returns:
        sum_j g_bj w-hat_j (B, D), and the prototypes' gradient (n, D), coalesced sparse if ``sparse``.
    """
    row, index, value = entries
    value = value.to(factor) * factor[row] * prototypes.inverse_norms[index]
    towards = _bag(prototypes.rows, index, value, torch.bincount(row, minlength=len(unit)))
    index, order = index.sort(stable=True)
    touched, count = torch.unique_consecutive(index, return_counts=True)
    grad = _bag(unit, row[order], value[order], count)
    for start in range(0, len(touched), _BLOCK_ROWS):
        part = touched[start : start + _BLOCK_ROWS]
        rows = prototypes.rows.index_select(0, part)  # several times faster than rows[part]
        _remove_radial(grad[start : start + _BLOCK_ROWS], rows, prototypes.inverse_norms[part])
    grad = at_own_norms(grad, None if prototypes.exponents is None else prototypes.exponents[touched])
    if sparse:
        size = tuple(prototypes.rows.shape)
        return towards, torch.sparse_coo_tensor(touched[None], grad, size, is_coalesced=True, check_invariants=False)
    return towards, torch.zeros_like(prototypes.rows).index_copy_(0, touched, grad)


def of_matrix(chunks: list[Tensor], factor: Tensor, unit: Tensor, prototypes: Vectors) -> tuple[Tensor, Tensor]:
    """As `of_entries`, from all g.

    Args:
        chunks: (B, width) each, g of one range of classes after another.
        factor: (B,) what each row's g is multiplied by.
        unit: (B, D) unit embeddings.
        prototypes: n of them.
    """
    towards = torch.zeros_like(unit)
    grad = torch.empty_like(prototypes.rows)
    weighted = unit * factor[:, None]
    start = 0
    for chunk in chunks:
        part = slice(start, start + chunk.shape[1])
        chunk = chunk * prototypes.inverse_norms[part]
        towards.addmm_(chunk, prototypes.rows[part])
        torch.mm(chunk.T, weighted, out=grad[part])
        _remove_radial(grad[part], prototypes.rows[part], prototypes.inverse_norms[part])
        start += chunk.shape[1]
    return towards * factor[:, None], at_own_norms(grad, prototypes.exponents)


def _bag(table: Tensor, index: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Sums of ``count`` (N,) consecutive weighted rows of ``table`` each, (N, D)."""
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


def _remove_radial(grad: Tensor, prototypes: Tensor, inverse_norms: Tensor) -> None:
    """Take the part along the prototypes out of their gradients (N, D), in place."""
    radial = (grad * prototypes).sum(1) * inverse_norms.square()
    grad.addcmul_(prototypes, radial[:, None], value=-1)
