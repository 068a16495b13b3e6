"""Confidence intervals and p-values from resampled figures.

The plain percentile interval of a bootstrap over speakers is wrong in three ways on trial lists, all of which the
influence of each speaker on the figure (:mod:`wespeaker_qm.evaluate.influence`) tells how to correct:

1. *Trials' own noise counts three times.* A non-target trial of a and b has weight m_a m_b, whose variance is 3 where
   that of an independent trial is 1. With psi_a the influence of speaker a, and phi_d that of all trials of the pair d,
   the resamples have the variance ``sum psi_a^2 + sum phi_d^2``, and what is wanted is the sum over all pairs of trials
   that share a speaker, ``sum psi_a^2 - sum phi_d^2`` (dyadic clustering: Aronow, Samii and Assenova 2015). Resamples
   are drawn towards the estimate by the square root of the ratio.
2. *Skewness.* Few speakers make most of the false accepts. Bias correction and acceleration (BCa: Efron 1987, eq. 2.3),
   the acceleration being ``sum psi^3 / (6 (sum psi^2)^1.5)``.
3. *Few speakers.* Quantiles of Student's t times sqrt((f + 1) / f) in the place of the normal's (the expanded
   percentiles of Hesterberg 2015), with f = ``3 (sum psi^2)^2 / sum psi^4 - 1`` degrees of freedom: speakers - 1 where
   influences are normal, fewer where a few speakers decide.

`tools/validate_intervals.py` measures how often such intervals hold the true value; README.md has its table.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from wespeaker_qm.evaluate.bootstrap import Resamples
from wespeaker_qm.evaluate.det import Band
from wespeaker_qm.evaluate.influence import Influence
from wespeaker_qm.evaluate.operating_points import best_at_far
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers

CONFIDENCE = 0.95
_STREAM = 0x5EED
_LEAST_SHRINKAGE = math.sqrt(1 / 3)
_MOST_ACCELERATION = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """A figure, or a difference of two, with what it is on the resamples: corrected, ready for quantiles."""

    estimate: float
    values: NDArray[np.float64]
    """(R,) sorted; drawn towards the estimate by the first correction."""
    acceleration: float
    degrees: float
    """Of freedom; infinite where trials were drawn."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval that holds the true value with probability ``confidence``."""
        tail = (1 - confidence) / 2
        tails = np.array([tail, 1 - tail])
        z = ndtri(tails)
        if math.isfinite(self.degrees):
            z = stdtrit(self.degrees, tails) * math.sqrt((self.degrees + 1) / self.degrees)
        z0 = self._bias(self.estimate)
        shifted = z0 + z
        levels = ndtr(z0 + shifted / (1 - self.acceleration * shifted))
        low, high = np.quantile(self.values, levels)
        return float(low), float(high)

    def p_value(self) -> float:
        """Two-sided, that the true value is 0: the smallest 1 - confidence whose interval does not hold 0.

        Never below 2 / (R + 1), which is all that R resamples can show.
        """
        if self.values[0] == self.values[-1] == 0:
            return 1.0
        z0 = self._bias(self.estimate)
        centred = self._bias(0.0) - z0
        z = centred / (1 + self.acceleration * centred) - z0
        tail = float(ndtr(-abs(z)))
        if math.isfinite(self.degrees):
            tail = float(stdtr(self.degrees, -abs(z) * math.sqrt(self.degrees / (self.degrees + 1))))
        return min(1.0, max(2 * tail, 2 / (len(self.values) + 1)))

    def _bias(self, point: float) -> float:
        """The normal quantile of the share of resamples below ``point``, ties counting half."""
        count = len(self.values)
        below = np.searchsorted(self.values, point, side="left") + np.searchsorted(self.values, point, side="right")
        return float(ndtri(np.clip(below / 2, 0.5, count - 0.5) / count))


def spread(name: str, runs: Sequence[Resamples], against: Sequence[Resamples] = (), seed: int = 0) -> Spread:
    """The spread of a figure, or of a difference, all from one call of ``resample``.

    Args:
        name: of the figure.
        runs: one, or several that differ in their seed, whose mean is taken.
        against: likewise, of the system whose figure is subtracted.
        seed: of the draws for the seeds' part.

    With several runs the spread combines the speakers' part, from the means on each resample, and the seeds' part: each
    resample is moved by a draw of Student's t, times the standard error of the mean of the runs (of both sides, with
    Welch's degrees of freedom).
    """
    sides = [(1.0, runs), *([(-1.0, against)] if against else [])]
    estimate = sum(sign * float(np.mean([run.estimate(name) for run in side])) for sign, side in sides)
    values = np.sum([sign * np.mean([run.column(name) for run in side], axis=0) for sign, side in sides], axis=0)
    influence = None
    if runs[0].speakers is not None:
        influence = np.sum(
            [sign / len(side) * Influence(run.system).of(name) for sign, side in sides for run in side], axis=0
        )
    combined = _spread(estimate, values, influence, runs[0].speakers)
    errors = [
        (float(np.var([run.estimate(name) for run in side], ddof=1)) / len(side), len(side) - 1)
        for _, side in sides
        if len(side) > 1
    ]
    total = sum(variance for variance, _ in errors)
    if total == 0:
        return combined
    degrees = total**2 / sum(variance**2 / freedom for variance, freedom in errors)
    rng = np.random.default_rng((seed, _STREAM))
    moves = rng.standard_t(degrees, size=len(values)) * math.sqrt(total)
    return dataclasses.replace(combined, values=np.sort(rng.permutation(combined.values) + moves))


def band(resamples: Resamples, confidence: float = CONFIDENCE) -> Band:
    """The interval of the miss rate along the DET curve, one FAR at a time, where the trials can measure it."""
    system = resamples.system
    roc = system.curve(np.ones(len(system.scores), np.int32))
    measurable = np.flatnonzero(resamples.grid * roc.num_nontargets >= 1)
    influence = Influence(system)
    ends = np.empty((len(measurable), 2))
    for row, point in enumerate(measurable.tolist()):
        far = float(resamples.grid[point])
        each = _spread(
            1 - best_at_far(roc, far).tar,
            resamples.frr[:, point],
            None if resamples.speakers is None else -influence.of(f"TAR@FAR {far!r}"),
            resamples.speakers,
        )
        ends[row] = each.interval(confidence)
    low, high = np.clip(ends, 0, 1).T
    return Band(resamples.grid[measurable], low, high)


def _spread(
    estimate: float,
    values: NDArray[np.float64],
    influence: NDArray[np.float64] | None,
    speakers: TrialSpeakers | None,
) -> Spread:
    if speakers is None or influence is None:
        return Spread(estimate, np.sort(values), 0.0, math.inf)
    psi = speaker_influence(influence, speakers)
    second, fourth = float((psi**2).sum()), float((psi**4).sum())
    if second == 0:
        return Spread(estimate, np.sort(values), 0.0, math.inf)
    own = pair_noise(influence, speakers)
    shrinkage = max(math.sqrt(max(second - own, 0.0) / (second + own)), _LEAST_SHRINKAGE)
    acceleration = float((psi**3).sum()) / (6 * second**1.5)
    return Spread(
        estimate,
        np.sort(estimate + shrinkage * (values - estimate)),
        float(np.clip(acceleration, -_MOST_ACCELERATION, _MOST_ACCELERATION)),
        max(3 * second**2 / fourth - 1, 2.0),
    )


def speaker_influence(influence: NDArray[np.float64], speakers: TrialSpeakers) -> NDArray[np.float64]:
    """(S,) psi: the influence (N,) of trials, summed over those of each speaker; a target trial has one speaker."""
    total = np.bincount(speakers.enrolment, influence, speakers.num_speakers)
    others = np.where(speakers.enrolment == speakers.test, 0.0, influence)
    return np.asarray(total + np.bincount(speakers.test, others, speakers.num_speakers), dtype=np.float64)


def pair_noise(influence: NDArray[np.float64], speakers: TrialSpeakers) -> float:
    """Sum of phi_d^2: the influence (N,) of the non-target trials of each pair of speakers, summed and squared."""
    apart = speakers.enrolment != speakers.test
    one, two = speakers.enrolment[apart].astype(np.int64), speakers.test[apart].astype(np.int64)
    pairs = np.minimum(one, two) * speakers.num_speakers + np.maximum(one, two)
    if speakers.num_speakers**2 > 8 * len(pairs):  # more possible pairs than are worth a count each
        pairs = np.unique(pairs, return_inverse=True)[1]
    sums = np.bincount(pairs, influence[apart])
    return float((sums**2).sum())
