"""From cosines, as a problem, to the loss, its sparsity and d loss / d cosine: on all classes or on the candidates.

Where classes are divided over P processes, the candidates of a row are sent to the process that it came from, which
solves it as if it were alone; if one of the processes has too many of them for that, all of them find the roots
together, from sums over their classes.

Legend: B rows (of all processes), n classes of this process, K candidates of a row at most, y target.
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from wespeaker_qm.losses import gradients
from wespeaker_qm.losses.candidates import Candidates, Problem, all_logits, find_candidates
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
_NO_CANDIDATES = 2**62  # as a number of candidates, larger than any


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


class Exchanged(NamedTuple):
    """d loss / d cosine where each process has solved its own rows, of b = B / P rows and K candidates of each process.

    others (b, P, K) and target_value (b,): g of the own rows; classes (B, K) and target (B,): which classes of this
    process they are, or those of other rows; -1 for the target where another process holds it.
    """

    others: Tensor
    target_value: Tensor
    classes: Tensor
    target: Tensor

    def entries(self, factor: Tensor, partition: ClassPartition) -> gradients.Entries:
        """The g of this process's classes, those of each row times the factor (b,) that its own process knows."""
        target_value = self.target_value[:, None, None].expand(-1, partition.world_size, 1)
        values = torch.cat([target_value, self.others], dim=2) * factor[:, None, None]
        values = partition.exchange(values.transpose(0, 1).flatten(0, 1)).flatten(0, 1)
        return gradients.entries_of(values[:, 1:], self.classes, values[:, 0], self.target)


class Solved(NamedTuple):
    """Of this process's own rows loss (b,), the largest logit of another class (b,), sparsity; and d loss / d cosine.

    The derivative of all rows is in entries or in a matrix (in chunks of classes), times row_factor (B,), or exchanged.
    """

    loss: Tensor
    best_other: Tensor
    sparsity: Sparsity | None
    row_factor: Tensor
    derivative: gradients.Entries | Exchanged | list[Tensor]


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
    loss, best_other = (partition.own_rows(rows[:, 0]) for rows in (loss, best_other))
    return Solved(loss, best_other, None, 1 / (others + own)[:, 0], matrix)


def solve_divergence(problem: Problem, marked: TargetLogit, partition: ClassPartition, way: Way) -> Solved:
    """The loss for alpha > 1, on the candidates, or on all classes if most are candidates or ``way`` says so."""
    candidates, tau = None, torch.full_like(problem.target_logit, -torch.inf)
    if way is Way.FILTERED and len(problem.unit):
        candidates, tau = find_candidates(problem)
    if candidates is None and problem.lazy is not None:
        problem.lazy.catch_up()
    if partition.world_size > 1:
        width = _NO_CANDIDATES if candidates is None else candidates.classes.shape[1]
        width = int(partition.max(torch.tensor(width, device=problem.unit.device)))
        if candidates is not None and width < _NO_CANDIDATES:
            return _solve_own(problem, marked, partition, candidates.padded(width), tau)
    # Candidates are few: float64 costs nothing, and spares differences of logits their round-off.
    chunks = all_logits(problem) if candidates is None else [candidates.logits.double()]
    # The candidates are without the target, which one process holds.
    num_classes = len(problem.prototypes.rows)
    count = num_classes if candidates is None else candidates.number + (problem.target >= 0)
    solution = _solve(chunks, tau, marked, count, problem, partition)
    loss, best_other = partition.own_rows(solution.loss), partition.own_rows(solution.best_other)
    sparsity = Sparsity(*(partition.own_rows(part) for part in solution.sparsity))
    target_value = -solution.off_target * marked.slope
    derivative: gradients.Entries | list[Tensor]
    if candidates is None:
        derivative = gradients.matrix_of(chunks, problem.scale, target_value, problem.target)
    else:
        others = chunks[0] * problem.scale
        derivative = gradients.entries_of(others, candidates.classes, target_value, problem.target)
    return Solved(loss, best_other, sparsity, torch.ones_like(solution.loss), derivative)


def _solve_own(
    problem: Problem, marked: TargetLogit, partition: ClassPartition, candidates: Candidates, tau: Tensor
) -> Solved:
    """The loss of this process's own rows, from the candidates and bounds that all processes have found for them."""
    found = partition.exchange(torch.cat([tau, candidates.logits], dim=1)).transpose(0, 1)  # (b, P, 1 + K)
    tau, logits = found[:, :, 0].amax(1, keepdim=True), found[:, :, 1:].flatten(1).double()
    marked = TargetLogit(*(partition.own_rows(part) for part in marked))
    count = (logits > -torch.inf).sum(1) + 1
    solution = _solve([logits], tau, marked, count, problem, ClassPartition(partition.num_classes))
    others = (logits * problem.scale).to(problem.unit).view_as(found[:, :, 1:])
    target_value = (-solution.off_target * marked.slope).to(problem.unit)
    derivative = Exchanged(others, target_value, candidates.classes, problem.target)
    row_factor = problem.unit.new_ones(len(problem.unit))
    return Solved(solution.loss, solution.best_other, solution.sparsity, row_factor, derivative)


class _Solution(NamedTuple):
    """(B,) each, of the rows that were to be solved; off_target: posterior mass off the target."""

    loss: Tensor
    best_other: Tensor
    sparsity: Sparsity
    off_target: Tensor


def _solve(
    chunks: list[Tensor],
    tau: Tensor,
    marked: TargetLogit,
    count: Tensor | int,
    problem: Problem,
    partition: ClassPartition,
) -> _Solution:
    """Find the roots, and turn logits into posteriors, in place.

    Args:
        chunks: (B, width) each, logits of classes other than the target.
        tau: (B, 1) a lower bound.
        marked: the target, (B,) each.
        count: of the classes that were looked at, (B,) or one number.
        problem: scale, a and the type of the results.
        partition: who has further classes of these rows.
    """
    a, dtype = problem.a, problem.unit.dtype
    target_logit, log_q = marked.logit[:, None], marked.log_q[:, None]
    best_other, tau = torch.split(partition.max(torch.cat([_row_max(chunks), tau], dim=1)), 1, dim=1)

    top = torch.maximum(best_other, target_logit).to(dtype).double()  # exact in every chunk's type
    target_gap, best_gap = (top - target_logit) * a, (top - best_other) * a
    gaps = [chunk.sub_(top.to(chunk)).mul_(-a) for chunk in chunks]
    alone = torch.minimum(1 + best_gap, target_gap + torch.exp(-a * log_q))
    height = torch.minimum(alone, 1 + (top - tau) * a)

    def sums(height: Tensor) -> Sums:
        parts = reduce(add_sums, [_sums_by_rows(gap, a, height.to(gap)) for gap in gaps])
        others = Sums(*(part.double() for part in parts))
        if partition.world_size > 1:
            others = partition.sum_sums(others, log_unit=class_sums(best_gap, a, height).log_unit)
        return with_class(others, target_gap, a, height, log_q)

    root = newton_root(sums, a, height, torch.finfo(dtype).eps, at_most=alone)
    off_target, energy, support, looked_at = (torch.zeros_like(marked.logit) for _ in range(4))
    for gap in gaps:
        posterior, share = posterior_of(gap, a, Root(*(part.to(gap) for part in root)))
        off_target += posterior.sum(1)
        energy += (posterior * share).sum(1)
        support += (share > 0).sum(1)  # the posterior, a power of it, may underflow
        gap.copy_(posterior)
    looked_at += count
    off_target, energy, support, looked_at = partition.sum(torch.stack([off_target, energy, support, looked_at]))
    loss = loss_value(root, TargetTerms(target_gap[:, 0], marked.log_q), off_target, energy, a)
    target_posterior, target_share = (part[:, 0] for part in posterior_of(target_gap, a, root, log_q))
    is_solved = (support == 0) & (off_target == 0)  # the latter for NaN
    sparsity = Sparsity(
        (support + (target_share > 0)).to(dtype),
        looked_at.to(dtype),
        _open_unit_interval(target_posterior.to(dtype), is_solved, target_share == 0),
    )
    return _Solution(loss, best_other[:, 0], sparsity, off_target)


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
