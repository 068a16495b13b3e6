"""Error rates of a verification system as functions of its threshold.

A trial is accepted when its score is at least the threshold. So trials with the same score are accepted together,
and the system has exactly as many operating points as there are distinct scores, plus "reject everything". All
figures here are read from these points; nothing is binned, smoothed or rounded.

Legend: N trials, K distinct scores. All rates are fractions in [0, 1]:
``far`` false accepts / non-target trials; ``tar`` accepted targets / target trials; ``frr`` = 1 - tar.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wespeaker_qm.utils.errors import RecipeError, counted

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""The false-accept rates of the reports."""
TARS = (0.9, 0.95, 0.99)
"""The true-accept rates whose false-accept rates are reported."""
P_TARGETS = (0.01, 0.001)
"""The prior probabilities of the reported detection costs."""


def far_name(far: float) -> str:
    """A false-accept rate as it is written in tables and keys: the shortest text that reads as this very number.

    A name stands for its number wherever figures are kept by name, so no two rates may share one:
    ``float(far_name(far)) == far``.

    >>> [far_name(far) for far in (*FARS, 0.015, 0.25, 0.1 + 0.2)]
    ['1e-1', '1e-2', '1e-3', '1e-4', '1e-5', '1.5e-2', '2.5e-1', '3.0000000000000004e-1']
    """
    return np.format_float_scientific(far, trim="-", exp_digits=1)


def number_name(number: float) -> str:
    """A prior, a true-accept rate or a setting of a loss as it is written, by the same rule.

    >>> [number_name(number) for number in (0.9, 0.001, 0.0123456789, 32)]
    ['0.9', '0.001', '0.0123456789', '32']
    """
    return repr(float(number)).removesuffix(".0")


@dataclasses.dataclass(frozen=True, eq=False)
class RocSteps:
    """All K + 1 operating points, from "reject everything" (index 0) to "accept everything" (index K)."""

    threshold: NDArray[np.float64]
    """(K+1,) falling; the distinct scores, after one value just above the highest."""
    false_accepts: NDArray[np.int64]
    """(K+1,) rising from 0 to ``num_nontargets``."""
    true_accepts: NDArray[np.int64]
    """(K+1,) rising from 0 to ``num_targets``."""

    @property
    def num_targets(self) -> int:
        """Number of target trials."""
        return int(self.true_accepts[-1])

    @property
    def num_nontargets(self) -> int:
        """Number of non-target trials."""
        return int(self.false_accepts[-1])

    @functools.cached_property
    def far(self) -> NDArray[np.float64]:
        """(K+1,) false-accept rate, rising from 0 to 1."""
        return self.false_accepts / self.num_nontargets

    @functools.cached_property
    def tar(self) -> NDArray[np.float64]:
        """(K+1,) true-accept rate, rising from 0 to 1."""
        return self.true_accepts / self.num_targets

    @functools.cached_property
    def frr(self) -> NDArray[np.float64]:
        """(K+1,) false-reject rate, falling from 1 to 0."""
        return (self.num_targets - self.true_accepts) / self.num_targets


class OperatingPoint(NamedTuple):
    """One threshold and what it does."""

    threshold: float
    far: float
    tar: float
    false_accepts: int


class EqualErrorRate(NamedTuple):
    """The equal error rate, and the threshold of the operating point nearest to it."""

    rate: float
    threshold: float


class MinDcf(NamedTuple):
    """The smallest normalised detection cost, and the threshold that has it."""

    cost: float
    threshold: float


def roc_steps(scores: ArrayLike, is_target: ArrayLike) -> RocSteps:
    """Every operating point, by one sort and two cumulative counts: O(N log N).

    Args:
        scores: (N,) finite; the higher, the more alike.
        is_target: (N,) bool.

    Raises:
        RecipeError: lengths differ, a score is not finite, or there are no targets or no non-targets.

    >>> roc = roc_steps([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    >>> roc.true_accepts.tolist(), roc.false_accepts.tolist()
    ([0, 1, 2, 2], [0, 0, 1, 2])
    """
    scores = np.asarray(scores, dtype=np.float64)
    is_target = np.asarray(is_target, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != is_target.shape:
        raise RecipeError(f"scores have shape {scores.shape}, labels {is_target.shape}; expected one of each a trial")
    num_targets = int(is_target.sum())
    if num_targets in (0, len(scores)):
        raise RecipeError(
            f"{num_targets} target and {counted(len(scores) - num_targets, 'non-target trial', 'non-target trials')}; "
            "error rates need both kinds"
        )
    num_bad = int((~np.isfinite(scores)).sum())
    if num_bad:
        of = f"of {len(scores)} scores"
        raise RecipeError(f"{counted(num_bad, f'{of} is', f'{of} are')} not finite; look for broken embeddings")

    order = np.argsort(-scores)
    falling = scores[order]
    # Tied scores move together: only the last of each group of equal scores is an operating point.
    last_of_tie = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    true_accepts = np.cumsum(is_target[order], dtype=np.int64)[last_of_tie]
    return RocSteps(
        threshold=np.concatenate(([np.nextafter(falling[0], np.inf)], falling[last_of_tie])),
        false_accepts=np.concatenate(([0], last_of_tie + 1 - true_accepts)),
        true_accepts=np.concatenate(([0], true_accepts)),
    )


def is_measurable(far: float, num_nontargets: int) -> bool:
    """Whether ``num_nontargets`` trials can show a false-accept rate of ``far``: it takes 1/far of them.

    >>> is_measurable(1e-3, 1000), is_measurable(1e-3, 999)
    (True, False)
    """
    # Written so that both sides round alike: 1/1000 is exactly the float 1e-3, while 1/1e-5 is not 100000.
    return 1 / num_nontargets <= far


def trials_to_measure(far: float) -> int:
    """The smallest number of non-target trials that can show a false-accept rate of ``far``.

    >>> trials_to_measure(1e-5), trials_to_measure(0.3)
    (100000, 4)
    """
    count = math.ceil(1 / far)
    return count - 1 if count > 1 and is_measurable(far, count - 1) else count


def tar_at_far(roc: RocSteps, far: float) -> OperatingPoint | None:
    """The largest TAR at any threshold whose FAR is at most ``far``; None where that is not measurable.

    Of the thresholds with this TAR it is the one with the fewest false accepts.

    >>> tar_at_far(roc_steps([0.9, 0.5, 0.5, 0.1], [True, True, False, False]), 0.5)
    OperatingPoint(threshold=0.5, far=0.5, tar=1.0, false_accepts=1)
    """
    return best_at_far(roc, far) if is_measurable(far, roc.num_nontargets) else None


def best_at_far(roc: RocSteps, far: float) -> OperatingPoint:
    """The largest TAR at any threshold whose FAR is at most ``far``, also where so few trials cannot measure it.

    With fewer than 1/far non-target trials it is the TAR without a single false accept, which says little of ``far``.
    What needs a number for every draw of the trials, as the bootstrap does, takes this one.

    >>> best_at_far(roc_steps([0.9, 0.5, 0.5, 0.1], [True, True, False, False]), 0.1)
    OperatingPoint(threshold=0.9, far=0.0, tar=0.5, false_accepts=0)
    """
    highest = int(np.searchsorted(roc.far, far, side="right")) - 1
    best = int(np.searchsorted(roc.true_accepts, roc.true_accepts[highest], side="left"))
    return OperatingPoint(
        threshold=float(roc.threshold[best]),
        far=float(roc.far[best]),
        tar=float(roc.tar[best]),
        false_accepts=int(roc.false_accepts[best]),
    )


def far_at_tar(roc: RocSteps, tar: float) -> OperatingPoint:
    """The smallest FAR at any threshold whose TAR is at least ``tar``.

    >>> far_at_tar(roc_steps([0.9, 0.5, 0.5, 0.1], [True, True, False, False]), 0.5)
    OperatingPoint(threshold=0.9, far=0.0, tar=0.5, false_accepts=0)
    """
    first = int(np.searchsorted(roc.tar, tar, side="left"))
    return OperatingPoint(
        threshold=float(roc.threshold[first]),
        far=float(roc.far[first]),
        tar=float(roc.tar[first]),
        false_accepts=int(roc.false_accepts[first]),
    )


def convex_hull(roc: RocSteps) -> RocSteps:
    """The operating points that no mixture of two others surpasses: the vertices of the upper hull of (FAR, TAR).

    By isotonic regression (pool adjacent violators) of the label on the score, whose blocks are the hull's edges
    (Fawcett and Niculescu-Mizil 2007). The first and the last operating point are always among them.
    """
    from scipy.optimize import isotonic_regression  # half of a program's start

    targets, nontargets = np.diff(roc.true_accepts), np.diff(roc.false_accepts)
    both = targets + nontargets
    some = np.flatnonzero(both)
    # From the lowest score up, as the posterior of "target" rises.
    posterior = (targets[some] / both[some])[::-1]
    blocks = isotonic_regression(posterior, weights=both[some].astype(np.float64)[::-1]).blocks
    vertices = np.concatenate(([0], some[len(some) - blocks[:-1][::-1] - 1] + 1))
    return RocSteps(roc.threshold[vertices], roc.false_accepts[vertices], roc.true_accepts[vertices])


def equal_error_rate(roc: RocSteps) -> EqualErrorRate:
    """Where FAR = FRR, on the straight line between the two operating points around the crossing.

    Without ties one step changes only one of the two rates, so that rate's constant partner is the answer and the
    figure equals that of WeSpeaker's ``compute_metrics``. With a tie at the crossing the line gives the expected EER
    of breaking the tie at random; programs that ignore ties give a value that depends on the order of the trials.
    Of the vertices that :func:`convex_hull` leaves it is the EER on the convex hull ("ROCCH-EER"), which is never above
    the raw one.

    >>> equal_error_rate(roc_steps([0.9, 0.5, 0.5, 0.1], [True, True, False, False]))
    EqualErrorRate(rate=0.25, threshold=0.5)
    """
    far, frr = roc.far, roc.frr
    gap = frr - far  # falls strictly from 1 to -1
    after = int(np.argmax(gap <= 0))
    before = after - 1
    weight = gap[before] / (gap[before] - gap[after])
    nearest = before if gap[before] < -gap[after] else after
    return EqualErrorRate(float(far[before] + weight * (far[after] - far[before])), float(roc.threshold[nearest]))


def min_dcf(roc: RocSteps, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> MinDcf:
    """The smallest cost c_miss p_target FRR + c_fa (1 - p_target) FAR over all thresholds.

    Normalised by the cost of the better of "accept everything" and "reject everything" (NIST SRE 2016), so in [0, 1].

    Args:
        roc: operating points; the vertices of the convex hull have the same smallest cost.
        p_target: prior probability of a target, in (0, 1).
        c_miss: cost of a miss.
        c_fa: cost of a false accept.
    """
    cost = c_miss * p_target * roc.frr + c_fa * (1 - p_target) * roc.far
    best = int(np.argmin(cost))
    return MinDcf(float(cost[best] / min(c_miss * p_target, c_fa * (1 - p_target))), float(roc.threshold[best]))
