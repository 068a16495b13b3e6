"""The few classes that can have posterior mass: an exact filter that never holds a row of logits.

::

    prototypes --chunks--> mm -> logits of a chunk (one reused buffer) -> maxima of strided groups of 16 classes
                                     |                                        |
                                     |                            leaders: the largest so far -> Newton -> height
                                     +------- logit > top - height / a <-------------------------------------+
                                                     survivors

The height only falls, and any height is an exact filter (see `root`): what a chunk discards can never be in the
support, and what it keeps too much is discarded at the end. There is no number of classes to choose.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wespeaker_qm.losses.dispatch import chunk_logits
from wespeaker_qm.losses.gradients import Vectors
from wespeaker_qm.losses.lazy_rows import LazyRows
from wespeaker_qm.losses.root import class_sums, newton_step, with_class
from wespeaker_qm.losses.roundoff import cosine_error

GROUP = 16  # classes of which the maximum is compared with the threshold first
_NUM_LEADERS = 32  # maxima over the classes of earlier chunks that the bound remembers
_FIRST_STEPS, _STEPS = 3, 1  # of Newton's method in the first chunk, and in each later one
_DENSE = 0.12  # where the filter leaves this share of a chunk's classes, the dense computation is cheaper


class Problem(NamedTuple):
    """What the filter needs: n classes of this process, B rows, a = alpha - 1.

    unit (B, D) unit embeddings; prototypes (n, D); target (B,) index among the n, or -1 where another process holds it;
    target_logit and log_q (B, 1), float64; filter_dtype: lower precision of the filter. lazy: whose rows the prototypes
    are, of which only the targets' are up to date.
    """

    unit: Tensor
    prototypes: Vectors
    scale: float
    a: float
    target: Tensor
    target_logit: Tensor
    log_q: Tensor
    filter_dtype: torch.dtype | None
    lazy: LazyRows | None = None


class Candidates(NamedTuple):
    """Logits (B, K), -inf where a row has fewer, and their classes (B, K), without the target; number of them (B,)."""

    logits: Tensor
    classes: Tensor
    number: Tensor

    def padded(self, size: int) -> "Candidates":
        """The same with (B, size) places."""
        more = size - self.classes.shape[1]
        return Candidates(F.pad(self.logits, (0, more), value=-torch.inf), F.pad(self.classes, (0, more)), self.number)


class Bound:
    """A lower bound of tau, (B, 1), that rises with every class that is shown."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._seen = problem.unit.new_empty(len(problem.unit), 0)
        self.tau = problem.unit.new_full((len(problem.unit), 1), -torch.inf)

    def update(self, logits: Tensor) -> None:
        """Take logits (B, N) of other classes, each at most once, into account."""
        target_logit, log_q, a = self._problem.target_logit, self._problem.log_q, self._problem.a
        target_logit, log_q = target_logit.to(logits), log_q.to(logits)
        num_steps = _STEPS if self._seen.shape[1] else _FIRST_STEPS
        self._seen = torch.cat([_leaders(self._seen), logits], dim=1)
        best_other = self._seen.amax(1, keepdim=True)
        top = torch.maximum(best_other, target_logit)
        gap, target_gap = (top - self._seen) * a, (top - target_logit) * a
        alone = torch.minimum(1 + (top - best_other) * a, target_gap + torch.exp(-a * log_q))
        height = torch.minimum(alone, 1 + (top - self.tau) * a)
        for _ in range(num_steps):
            sums = with_class(class_sums(gap, a, height), target_gap, a, height, log_q)
            height = height * (1 - newton_step(sums, a, height).clamp_(min=0))
        self.tau = top - (height - 1) / a

    def restart(self, logits: Tensor) -> None:
        """Take logits (B, N) into account that are better than what was shown before of the same classes."""
        self._seen = logits.new_empty(len(logits), 0)
        self.update(logits)

    def threshold(self) -> Tensor:
        """(B, 1): a class in the support has a larger logit; round-off is allowed for."""
        tau = self.tau - 1 / self._problem.a
        return tau - 16 * torch.finfo(tau.dtype).eps * (self._problem.scale + tau.abs())


def _leaders(logits: Tensor) -> Tensor:
    """Maxima (B, at most _NUM_LEADERS) over strided groups; faster than sorting, and has most of the largest."""
    batch, size = logits.shape
    if size <= _NUM_LEADERS:
        return logits
    padded = F.pad(logits, (0, -size % _NUM_LEADERS), value=-torch.inf)
    return padded.view(batch, -1, _NUM_LEADERS).amax(1)


def find_candidates(problem: Problem) -> tuple[Candidates | None, Tensor]:
    """Walk over all classes.

    Returns:
        The candidates, or None where they are so many that a dense computation is cheaper; and a lower bound of tau
        (B, 1), which is NaN where a logit is.
    """
    batch = len(problem.unit)
    bound = Bound(problem)
    ranges = _chunk_ranges(problem)
    width = max(stop - start for start, stop in ranges)
    buffer = problem.unit.new_empty(batch, -(-width // GROUP) * GROUP)
    slack = problem.scale * _filter_error(problem)
    rows, classes, values = [], [], []
    for start, stop in ranges:
        logits = buffer[:, : -(-(stop - start) // GROUP) * GROUP]
        logits[:, stop - start :] = -torch.inf
        _fill_logits(logits[:, : stop - start], problem, start, is_filter=True)
        groups = torch.unflatten(logits, 1, (GROUP, -1))
        maxima = groups.amax(1)
        bound.update(maxima - slack)
        threshold = bound.threshold() - slack
        row, group = (maxima > threshold).nonzero(as_tuple=True)
        # Of so many groups a class is left, if that share of the classes is left at random.
        if len(row) > (1 - (1 - _DENSE) ** GROUP) * maxima.numel():
            return None, bound.tau
        members = groups[row, :, group]
        hit, lane = (members > threshold[row]).nonzero(as_tuple=True)
        rows.append(row[hit])
        classes.append(start + lane * groups.shape[2] + group[hit])
        values.append(members[hit, lane])
    row, chosen, value = torch.cat(rows), torch.cat(classes), torch.cat(values)
    if slack:
        row, chosen, value = _with_exact_logits(problem, bound, slack, row, chosen, value)
    kept = value > bound.threshold()[row, 0]
    return _padded(row[kept], chosen[kept], value[kept], batch), bound.tau


def all_logits(problem: Problem) -> list[Tensor]:
    """Logits (B, width) of one chunk of classes after the other, -inf for targets."""
    chunks = []
    for start, stop in _chunk_ranges(problem):
        chunks.append(problem.unit.new_empty(len(problem.unit), stop - start))
        _fill_logits(chunks[-1], problem, start, is_filter=False)
    return chunks


def _chunk_ranges(problem: Problem) -> list[tuple[int, int]]:
    """Start and stop of chunks of nearly the same size."""
    batch, num_classes = len(problem.unit), len(problem.prototypes.rows)
    width = -(-num_classes // max(1, round(batch * num_classes / chunk_logits(problem.unit.device))))
    return [(start, min(start + width, num_classes)) for start in range(0, num_classes, width)]


def _filter_error(problem: Problem) -> float:
    """By how much a cosine of the filter may be off; 0 where the filter is the computation itself."""
    num_dims = problem.unit.shape[1]
    if problem.lazy is not None:
        return cosine_error(problem.lazy.directions.dtype, num_dims) + problem.lazy.turned
    return 0.0 if problem.filter_dtype is None else cosine_error(problem.filter_dtype, num_dims)


def _fill_logits(logits: Tensor, problem: Problem, start: int, *, is_filter: bool) -> None:
    """Write the logits of the classes from ``start`` on into (B, width), or what is good enough for a filter; -inf for
    targets.
    """
    stop = start + logits.shape[1]
    prototypes, inverse_norms = (part[start:stop] for part in problem.prototypes[:2])
    if is_filter and (problem.lazy is not None or problem.filter_dtype is not None):
        if problem.lazy is not None:
            directions = problem.lazy.directions[start:stop]
        else:
            directions = (prototypes * inverse_norms[:, None]).to(problem.filter_dtype)
        logits.copy_(problem.unit.to(directions) @ directions.T).mul_(problem.scale)
    else:
        torch.mm(problem.unit, prototypes.T, out=logits)
        logits.mul_(inverse_norms * problem.scale)
    logits.clamp_(-problem.scale, problem.scale)
    (row,) = ((problem.target >= start) & (problem.target < stop)).nonzero(as_tuple=True)
    logits[row, problem.target[row] - start] = -torch.inf


def _exact_logits(problem: Problem, row: Tensor, classes: Tensor) -> Tensor:
    """Logits (K,) of pairs of a row and a class, in the precision of the embeddings."""
    cosine = problem.unit.new_empty(len(row))
    for part in range(0, len(row), 4096):
        pairs = slice(part, part + 4096)
        embeddings, prototypes = (
            problem.unit.index_select(0, row[pairs]),
            problem.prototypes.rows.index_select(0, classes[pairs]),
        )
        torch.sum(embeddings * prototypes, dim=1, out=cosine[pairs])
    return (cosine * problem.prototypes.inverse_norms[classes] * problem.scale).clamp_(-problem.scale, problem.scale)


def _with_exact_logits(
    problem: Problem, bound: Bound, slack: float, row: Tensor, classes: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From logits (N,) that may be off by ``slack`` to exact ones of those that may be above the threshold.

    The exact logits of the largest come first, and raise the bound: most of the others then need none.
    """
    threshold = bound.threshold()[row, 0]
    surely = logits > threshold + slack
    parts = []
    for are_meant in (surely, ~surely):
        # The first chunks were compared with a looser bound.
        pairs = (are_meant & (logits > bound.threshold()[row, 0] - slack)).nonzero()[:, 0]
        if problem.lazy is not None:
            problem.lazy.catch_up(torch.unique_consecutive(classes[pairs].sort().values))
        parts.append((row[pairs], classes[pairs], _exact_logits(problem, row[pairs], classes[pairs])))
        if are_meant is surely and len(pairs):
            bound.restart(_padded(*parts[0], len(problem.unit)).logits)
    found, chosen, exact = (torch.cat(part) for part in zip(*parts, strict=True))
    return found, chosen, exact


def _padded(row: Tensor, classes: Tensor, value: Tensor, batch: int) -> Candidates:
    """From lists of (row, class, logit) to matrices with the candidates of a row side by side."""
    row, order = row.sort(stable=True)
    count = torch.bincount(row, minlength=batch)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    size = max(int(count.max()), 1)
    logits = value.new_full((batch, size), -torch.inf)
    logits[row, place] = value[order]
    index = row.new_zeros(batch, size)
    index[row, place] = classes[order]
    return Candidates(logits, index, count)
