"""Confidence intervals and p-values from resampled figures.

An interval is ``centre +- t_f * error`` (Student's t) on a scale on which a figure is nearly normal: the logit of
rates and of costs between 0 and 1, the logarithm of other costs, thresholds and differences as they are. So it stays in
the figure's range, grows with the confidence, and belongs to the p-value. The resamples give its parts, and the
influence of each speaker on the figure (:mod:`wespeaker_qm.evaluate.influence`) corrects them. With psi_a the influence
of speaker a on a figure through its target trials (T) and non-target trials (N), w_a the shares of these trials that it
has part in, and phi_d the influence of all trials of the pair of speakers d::

    resampled variance   B = sum psi_a^2 + sum phi_d^2
    variance             V = (n - 1) / n sum (jack_a - mean)^2 - sum phi_d^2
    left out             jack_a = psi_a^T / (1 - w_a^T) + psi_a^N / (1 - w_a^N)

1. *Error.* The deviation of the resamples times sqrt(V / B). A non-target trial of a and b has weight m_a m_b, so that
   its own noise counts three times among the resamples, and should once: the sum over all pairs of trials that share a
   speaker is ``sum psi_a^2 - sum phi_d^2`` (dyadic clustering: Aronow, Samii and Assenova 2015). And a speaker's own
   trials draw the figure towards it, which leaving it out undoes: the jackknife's variance (Efron and Stein 1981; CV3
   of MacKinnon, Nielsen and Webb 2023), which with 8 speakers and all pairs of them is 14/9 of psi's.
2. *Centre.* Costs at the best threshold and on the convex hull are too low, because the threshold was chosen on the
   same trials; the resamples show by how much (Efron and Tibshirani 1993, chapter 10), by B / V too much. In a
   difference of two systems the bias cancels, and is left alone.
3. *Degrees of freedom.* ``f = n / (kurtosis of jack_a - 1)``, at most (n - 1) / 2: half of what n speakers of that
   kurtosis know of their variance (Satterthwaite 1946), because the kurtosis of a few is too low, and because speakers
   who make many errors raise a rate and its error together. Fewer where a few speakers decide.

Where a figure rests on too little for all that, there is no interval, but the reason
(:mod:`wespeaker_qm.evaluate.evidence`); and no p-value of a difference, where that is so of both its figures.
`tools/validate_intervals.py` measures how often intervals hold the true value; docs/evaluation.md has its table.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from wespeaker_qm.evaluate.bootstrap import Resamples
from wespeaker_qm.evaluate.evidence import figure_reason
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR
from wespeaker_qm.evaluate.scales import LINEAR, LOGIT, Scale
from wespeaker_qm.trials.speakers import TrialSpeakers

CONFIDENCE = 0.95
_LEAST_VARIANCE = 1 / 3
"""Of V, as a share of its first term, to which pairs' own noise adds itself twice: less than a half is chance."""
_LEAST_P = 1e-12
"""Of p-values with two errors: Student's quantiles end soon below."""
_MOST_LEVERAGE = 0.75
"""Of w_a in jack_a: beyond it a figure is one speaker's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure, or a difference of two, and how sure it is."""

    estimate: float
    centre: float = math.nan
    """The estimate on the scale, free of bias."""
    errors: tuple["Error", ...] = ()
    """Of the estimate, on the scale: that of the speakers and that of the seeds, where there are several."""
    scale: Scale = LINEAR
    reason: str | None = None
    """Why there is no interval; None where there is one."""
    is_tested: bool = False
    """Whether there is a p-value all the same."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """The interval that holds the true value with probability ``confidence``; None where there is a reason."""
        if self.reason is not None:
            return None
        half = self._half((1 - confidence) / 2)
        low, high = self.scale.inverse(np.array([self.centre - half, self.centre + half])).tolist()
        low, high = max(low, self.scale.low), min(high, self.scale.high)
        return min(low, self.estimate), max(high, self.estimate)

    def p_value(self) -> float | None:
        """Of a difference: two-sided, that its true value is 0; None where there is a reason and it is not tested.

        It is the smallest 1 - confidence whose interval does not hold 0; 1 for two systems that do not differ at all.
        """
        if self.reason is not None and not self.is_tested:
            return None
        from scipy.optimize import brentq  # half of a program's start

        distance = abs(self.centre)
        if distance == 0 or not any(each.size for each in self.errors):
            return 1.0 if distance == 0 else 0.0
        if len(self.errors) == 1:
            return 2 * float(stdtr(self.errors[0].degrees, -distance / self.errors[0].size))
        if self._half(_LEAST_P / 2) < distance:
            return _LEAST_P
        return math.exp(brentq(lambda p: self._half(math.exp(p) / 2) - distance, math.log(_LEAST_P), 0.0))

    def _half(self, tail: float) -> float:
        """Half of the interval that leaves ``tail`` on either side."""
        return math.hypot(*(each.size * float(stdtrit(each.degrees, tail)) for each in self.errors))


class Error(NamedTuple):
    """A standard error."""

    size: float
    degrees: float
    """Of freedom with which it is known."""


class Band(NamedTuple):
    """An interval of the miss rate along a DET curve."""

    far: NDArray[np.float64]
    """(G,)."""
    low: NDArray[np.float64]
    """(G,) miss rates."""
    high: NDArray[np.float64]
    """(G,) likewise."""


def spread(
    figure: Figure, runs: Sequence[Resamples], against: Sequence[Resamples] = (), *, even_unsupported: bool = False
) -> Spread:
    """The spread of a figure, or of a difference, all from one call of ``resample``.

    Args:
        figure: one of those that are wanted of all the runs.
        runs: one, or several that differ in their seed, whose mean is taken.
        against: likewise, of the system whose figure is subtracted.
        even_unsupported: whatever the evidence; for simulations that measure what that would be worth.

    A difference has a p-value where the figure of one side has the evidence for an interval, and an interval where both
    have: were they equal, as the p-value supposes, what one rests on would hold for the other. So a system that errs
    too rarely to tell how rarely may be told from one that errs often.

    With several runs there is the speakers' error, from the means on each resample, and the seeds' error, that of the
    mean of the runs; where the other side has only one run, its seeds are taken to vary as much. The two intervals are
    combined at right angles (Zou and Donner 2008: the half of one is the root of the sum of squares), which is exact
    where either is small, and safe between; one with degrees of freedom by Satterthwaite's formula is not, because two
    or three runs that happen to agree make it look as if their variance were well known.
    """
    sides = [(1.0, runs), *([(-1.0, against)] if against else [])]
    estimate = sum(sign * float(np.mean([run.estimate(figure) for run in side])) for sign, side in sides)
    values = np.sum([sign * np.mean([run.column(figure) for run in side], axis=0) for sign, side in sides], axis=0)
    reasons = [next(filter(None, (figure_reason(figure, run) for run in side)), None) for _, side in sides]
    reason = None if even_unsupported else next(filter(None, reasons), None)
    is_tested = bool(against) and None in reasons
    if reason is not None and not is_tested:
        return Spread(estimate=estimate, reason=reason)
    influence = None
    if runs[0].speakers is not None:
        parts = [
            sign / len(side) * figure.influence(run.system.influence, run.system.curves)
            for sign, side in sides
            for run in side
        ]
        influence = np.sum(parts, axis=0)
    scale = figure.kind.scale
    if against:
        reach = scale.high - scale.low
        scale = dataclasses.replace(LINEAR, low=-reach, high=reach)
    speakers_part = _spread(estimate, values, influence, runs[0], scale)
    if speakers_part.reason is not None:
        return speakers_part
    speakers_part = dataclasses.replace(speakers_part, reason=reason, is_tested=is_tested)
    seeds = seed_error([[run.estimate(figure) for run in side] for _, side in sides])
    if seeds is None:
        return speakers_part
    slope = 1.0 if against else scale.slope(float(np.clip(estimate, 1e-9, 1 - 1e-9 if scale is LOGIT else None)))
    return dataclasses.replace(speakers_part, errors=(*speakers_part.errors, Error(slope * seeds.size, seeds.degrees)))


def seed_error(sides: Sequence[Sequence[float]]) -> Error | None:
    """The standard error of the mean of the runs, or of the difference of two means, from the figures of the runs.

    Runs of both sides are taken to vary alike (Student's pooled variance), so that one side may be a single run; None
    where both are, which tells nothing of seeds.
    """
    degrees = sum(len(side) - 1 for side in sides)
    if degrees == 0:
        return None
    pooled = sum(float(np.var(side)) * len(side) for side in sides) / degrees
    return Error(math.sqrt(pooled * sum(1 / len(side) for side in sides)), float(degrees))


def band(resamples: Resamples, confidence: float = CONFIDENCE) -> Band | None:
    """The interval of the miss rate along the DET curve, one FAR at a time, where the trials support one."""
    system = resamples.system
    rows = []
    for point, far in enumerate(resamples.grid.tolist()):
        figure = Figure(TAR_AT_FAR, far)
        if figure_reason(figure, resamples) is not None:
            continue
        each = _spread(
            1 - figure.value_of(figure.read(system.curves)),
            resamples.frr[:, point],
            None if resamples.speakers is None else -figure.influence(system.influence, system.curves),
            resamples,
            LOGIT,
        )
        ends = each.interval(confidence)
        if ends is not None:
            rows.append((far, *ends))
    return Band(*np.array(rows).T) if rows else None


def _spread(
    estimate: float,
    values: NDArray[np.float64],
    influence: NDArray[np.float64] | None,
    resamples: Resamples,
    scale: Scale,
) -> Spread:
    """The spread of ``estimate`` from its ``values`` (R,) on the resamples; ``influence`` (N,) None: trials drawn."""
    num_resamples = len(values)
    if num_resamples < 2:
        return Spread(estimate=estimate, reason="no resamples")
    if np.ptp(values) == 0 and estimate != 0:
        return Spread(estimate=estimate, reason="the same on all resamples")
    # A resample without errors is taken to have half an error: logit and logarithm have no value at 0.
    half = 0.5 / len(resamples.system.scores)
    inside = (scale.low + half, scale.high - half)
    centre = float(scale.forward(np.clip(np.array(estimate), *inside)))
    moved = scale.forward(np.clip(values, *inside))
    ratio, degrees = 1.0, math.inf
    if influence is not None and resamples.speakers is not None and np.any(influence):
        ratio, degrees = _correction(influence, resamples.speakers, resamples.system.is_target)
    if scale.low >= 0:  # neither a difference nor a threshold
        centre -= ratio * (float(moved.mean()) - centre)
    error = math.sqrt(ratio * (1 + 1 / num_resamples)) * float(moved.std(ddof=1))
    # The deviation of few resamples is uncertain itself.
    degrees = 1 / (1 / degrees + 1 / (num_resamples - 1))
    return Spread(estimate=estimate, centre=centre, errors=(Error(error, degrees),), scale=scale)


def _correction(
    influence: NDArray[np.float64], speakers: TrialSpeakers, is_target: NDArray[np.bool_]
) -> tuple[float, float]:
    """V / B, and the degrees of freedom."""
    psi = np.zeros(speakers.num_speakers)
    jack = np.zeros(speakers.num_speakers)
    for kind in (is_target, ~is_target):
        part = speaker_influence(np.where(kind, influence, 0.0), speakers)
        weight = speaker_influence(kind / kind.sum(), speakers)
        psi += part
        jack += part / (1 - np.minimum(weight, _MOST_LEVERAGE))
    own = pair_noise(influence, speakers)
    count = max(int(np.count_nonzero(jack)), 2)
    first = (count - 1) / count * float((jack**2).sum() - jack.sum() ** 2 / count)
    variance = max(first - own, _LEAST_VARIANCE * first)
    second = float((jack**2).sum())
    if second == 0:  # trials' influences cancel within each speaker
        return 1.0, (count - 1) / 2
    kurtosis = count * float((jack**4).sum()) / second**2
    degrees = min(count / max(kurtosis - 1, 1e-9), (count - 1) / 2)
    return variance / (float((psi**2).sum()) + own), degrees


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
