"""From cosines, as a problem, to the loss, its sparsity and d loss / d cosine: on all classes or on the candidates.

Legend: B rows (of all processes), n classes of this process, K candidates of a row at most, y target.
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses import gradients
from wespeaker_qm.losses.candidates import Problem, all_logits, find_candidates
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.margins import TargetLogit
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.losses.root import (
    Root,
    Sums,
    TargetTerms,
    add_sums,
    class_sums,
    loss_value,
    newton_root,
    posterior_of,
    with_class,
)

_BLOCK_GAPS = 2**17  # worked on together where they lie in a CPU's cache


class Sparsity(NamedTuple):
    """How sparse the posteriors of a batch are; (B,) each. Tells whether alpha, scale and margin fit the problem.

    support: classes with posterior > 0, the target among them if it is one.
    candidates: classes that the filter left, the target among them; all of them where the computation was dense.
    target_posterior: p_y; 1 for a solved sample (no other class is in the support), 0 for a dropped target (it is not),
        and for no others: what round-off would make 1 or 0 is the nearest number inside.
    """

    support: Tensor
    candidates: Tensor
    target_posterior: Tensor


class Solved(NamedTuple):
    """Loss (B,), the largest logit of another class (B,), sparsity, and d loss / d cosine for the gradients.

    The derivative is either in entries, or in a matrix (in chunks of classes); times row_factor (B,).
    """

    loss: Tensor
    best_other: Tensor
    sparsity: Sparsity | None
    row_factor: Tensor
    entries: gradients.Entries | None
    matrix: list[Tensor]


def solve_softmax(problem: Problem, marked: TargetLogit, partition: ClassPartition) -> Solved:
    """Cross-entropy of the logits tilted by log q: -log p_y = log(1 + sum_{j != y} exp(theta_j - theta_y))."""
    chunks = all_logits(problem)
    best_other = partition.max(_row_max(chunks))
    tilted = problem.target_logit + problem.log_q
    top = torch.maximum(best_other, tilted).to(problem.unit)
    others = partition.sum(
        reduce(torch.add, [chunk.sub_(top).exp_().sum(1, keepdim=True).double() for chunk in chunks])
    )
    own = (tilted - top).exp()
    loss = torch.where(own < 1 / 2, (others + own).log() - (tilted - top), (others / own).log1p())
    matrix = gradients.matrix_of(chunks, problem.scale, -others[:, 0] * marked.slope, problem.target)
    return Solved(loss[:, 0], best_other[:, 0], None, 1 / (others + own)[:, 0], None, matrix)


def solve_divergence(problem: Problem, marked: TargetLogit, partition: ClassPartition, way: Way) -> Solved:
    """The loss for alpha > 1, on the candidates, or on all classes if most are candidates or ``way`` says so."""
    a, target_logit, log_q = problem.a, problem.target_logit, problem.log_q
    candidates, tau = None, torch.full_like(target_logit, -torch.inf)
    if way is Way.FILTERED and len(problem.unit):
        candidates, tau = find_candidates(problem)
    # Candidates are few: float64 costs nothing, and spares differences of logits their round-off.
    chunks = all_logits(problem) if candidates is None else [candidates.logits.double()]
    best_other, tau = torch.split(partition.max(torch.cat([_row_max(chunks), tau], dim=1)), 1, dim=1)

    top = torch.maximum(best_other, target_logit).to(problem.unit).double()  # exact in every chunk's type
    target_gap = (top - target_logit) * a
    gaps = [chunk.sub_(top.to(chunk)).mul_(-a) for chunk in chunks]
    alone = torch.minimum(1 + (top - best_other) * a, target_gap + torch.exp(-a * log_q))
    height = torch.minimum(alone, 1 + (top - tau) * a)

    def sums(height: Tensor) -> Sums:
        others = reduce(add_sums, [_sums_by_rows(gap, a, height.to(gap)) for gap in gaps])
        others = partition.sum_sums(Sums(*(part.double() for part in others)))
        return with_class(others, target_gap, a, height, log_q)

    root = newton_root(sums, a, height, torch.finfo(problem.unit.dtype).eps, at_most=alone)
    off_target, energy, support, count = (torch.zeros_like(marked.logit) for _ in range(4))
    for gap in gaps:
        posterior, share = posterior_of(gap, a, Root(*(part.to(gap) for part in root)))
        off_target += posterior.sum(1)
        energy += (posterior * share).sum(1)
        support += (share > 0).sum(1)  # the posterior, a power of it, may underflow
        gap.copy_(posterior)
    # The candidates are without the target, which one process holds.
    count += len(problem.prototypes.rows) if candidates is None else candidates.number + (problem.target >= 0)
    off_target, energy, support, count = partition.sum(torch.stack([off_target, energy, support, count]))
    loss = loss_value(root, TargetTerms(target_gap[:, 0], marked.log_q), off_target, energy, a)
    target_posterior, target_share = (part[:, 0] for part in posterior_of(target_gap, a, root, log_q))
    is_solved = (support == 0) & (off_target == 0)  # the latter for NaN
    sparsity = Sparsity(
        (support + (target_share > 0)).to(problem.unit),
        count.to(problem.unit),
        _open_unit_interval(target_posterior.to(problem.unit), is_solved, target_share == 0),
    )
    target_weight = -off_target * marked.slope
    row_factor = torch.ones_like(loss)
    if candidates is None:
        matrix = gradients.matrix_of(gaps, problem.scale, target_weight, problem.target)
        return Solved(loss, best_other[:, 0], sparsity, row_factor, None, matrix)
    entries = gradients.entries_of(gaps[0] * problem.scale, candidates.classes, target_weight, problem.target)
    return Solved(loss, best_other[:, 0], sparsity, row_factor, entries, [])


def _open_unit_interval(posterior: Tensor, is_one: Tensor, is_zero: Tensor) -> Tensor:
    """Posteriors that are 1 and 0 exactly where they are said to be, and otherwise inside however they were rounded."""
    limits = torch.finfo(posterior.dtype)
    inside = posterior.clamp(limits.tiny, 1 - limits.eps / 2)
    return torch.where(is_one, 1.0, torch.where(is_zero, 0.0, inside))


def _sums_by_rows(gap: Tensor, a: float, height: Tensor) -> Sums:
    """`class_sums`, a few rows at a time: what stays in a core's cache is worked on several times faster."""
    num_rows = max(1, _BLOCK_GAPS // gap.shape[1])
    pairs = zip(torch.split(gap, num_rows), torch.split(height, num_rows), strict=True)
    parts = [class_sums(some_gaps, a, some_heights) for some_gaps, some_heights in pairs]
    return parts[0] if len(parts) == 1 else Sums(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _row_max(chunks: list[Tensor]) -> Tensor:
    return reduce(torch.maximum, [chunk.amax(1, keepdim=True) for chunk in chunks]).double()
