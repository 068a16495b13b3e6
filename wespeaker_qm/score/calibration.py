"""Calibration: scores become log-likelihood ratios, which can be thresholded for any prior.

*Of the score alone*, by logistic regression on the trials of other speakers, targets and non-targets weighing alike, so
that its output is a log-likelihood ratio (Brümmer and du Preez 2006)::

    base = a s + b

*With quality measures*, which tell how far to trust a score. As in WeSpeaker these are, of both sides of a trial, the
logarithm of the duration, the logarithm of the embedding's length, and the cohort mean. A regression on score and
measures, as WeSpeaker's, estimates p(score and measures | same) / p(score and measures | different), which lets the
measures be evidence: where the recordings of a corpus were cut into pieces of equal length, two pieces of equal length
are of one speaker, and the regression decides by that. Here the score alone is evidence, and the measures say how to
read it, p(s | same, q) / p(s | different, q), by normal distributions whose means depend on q (generative, as the model
of Cumani and Sarni 2021, but simpler)::

    s | same, q       ~ N(mu_1 + beta_1 q, sigma^2)
    s | different, q  ~ N(mu_0 + beta_0 q, sigma^2)

    separation(q) = mu_1 - mu_0 + (beta_1 - beta_0) q       middle(q) = (mu_1 + mu_0 + (beta_1 + beta_0) q) / 2

    full = c (separation(q) / (mu_1 - mu_0)) (s - middle(q)) + d

    llr  = base + (full - base), the second term held between -MAX_SHIFT and MAX_SHIFT

With normal scores of one variance the log-likelihood ratio is ``separation (s - middle) / sigma^2``, a straight line in
s (van Leeuwen and Brümmer 2013). A short recording can so have another threshold (middle), and its score another weight
(separation); c and d are found by logistic regression, as a and b are. What makes measures unable to decide:

- The betas are fitted within the targets and within the non-targets, so that a difference *between* these in the
  measures themselves changes nothing: where s does not depend on q the betas are 0, whoever q belongs to.
- q is the mean of both sides. A function of it cannot tell equal sides from unequal ones, which the smaller and the
  larger of both, or their product, can.
- q is held within the range of the calibration list, and separation(q) within a half and twice its mean, so that llr
  rises with s for every q: between trials of the same quality the score alone decides.
- llr is within MAX_SHIFT of what the score alone says.

Legend: N trials, K measures.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MAX_DURATION_S = 20.0
"""Longer utterances are not more trustworthy (WeSpeaker's value)."""
MEASURES = ("log duration", "log length", "cohort mean")
MAX_SHIFT = math.log(3)
"""Nats by which quality measures may change what the score alone says: the odds by a factor of three."""
_SEPARATIONS = (0.5, 2.0)
_PREDICTED_TRIALS = 5000


def quality(duration_s: NDArray[np.float64], measures: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(N, K, 2) quality measures of both sides of N trials, in the order of ``MEASURES``; K is 3 or, without these, 1.

    Args:
        duration_s: (N, 2) of both sides.
        measures: (N, 4) embeddings' lengths and cohort means of both sides, as in score files; None leaves them out.
    """
    pairs = [np.log(np.minimum(duration_s, MAX_DURATION_S))]
    if measures is not None:
        pairs += [np.log(measures[:, :2]), measures[:, 2:]]
    return np.stack(pairs, axis=1)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted calibration; the lists have one entry a measure, and are empty where the score alone is used."""

    measures: list[str]
    """The first K of ``MEASURES``."""
    low: list[float]
    high: list[float]
    """Range of each measure of a side in the calibration list."""
    centre: list[float]
    """Mean of both sides' mean, over targets and non-targets alike."""
    target_mean: float
    """mu_1, at ``centre``."""
    nontarget_mean: float
    """mu_0."""
    target_slope: list[float]
    """beta_1."""
    nontarget_slope: list[float]
    """beta_0."""
    deviation: float
    """sigma."""
    base: tuple[float, float]
    """a and b."""
    full: tuple[float, float]
    """c and d; a and b again where the score alone is used."""

    def __post_init__(self) -> None:
        """Refuse measures that there are not, and lists that do not go with them."""
        lists = (self.low, self.high, self.centre, self.target_slope, self.nontarget_slope)
        if any(len(each) != len(self.measures) for each in lists) or len(self.measures) > len(MEASURES):
            raise ValueError(f"lists of {[len(each) for each in lists]} values for the measures {self.measures}")

    def apply(self, scores: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) natural log-likelihood ratios.

        Args:
            scores: (N,).
            q: (N, K', 2) of :func:`quality`, of which the first K are used.

        Raises:
            ValueError: K' < K.
        """
        base = self.base[0] * scores + self.base[1]
        if not self.measures:
            return base
        separation, middle = self.conditional(q)
        full = self.full[0] * separation * (scores - middle) + self.full[1]
        return base + np.clip(full - base, -MAX_SHIFT, MAX_SHIFT)

    def expected_eers(self, q: NDArray[np.float64]) -> tuple[float, float]:
        """EER of scores and of log-likelihood ratios where quality is ``q`` (N, K, 2), whoever speaks.

        Those of the normal distributions of the fitted model, over the quality of all N trials for targets and for
        non-targets alike: what measures can do honestly. N is thinned to a few thousand.
        """
        from scipy.optimize import brentq  # half of a program's start
        from scipy.special import ndtr

        q = q[:: max(1, len(q) // _PREDICTED_TRIALS)]
        target, nontarget = self._means(q)
        separation, middle = self.conditional(q)
        (a, b), (c, d) = self.base, self.full

        def eer(score_at: Callable[[float], NDArray[np.float64] | float], low: float, high: float) -> float:
            def rates(threshold: float) -> tuple[float, float]:
                score = score_at(threshold)
                misses = ndtr((score - target) / self.deviation).mean()
                return float(misses), float(ndtr((nontarget - score) / self.deviation).mean())

            def gap(threshold: float) -> float:
                misses, false_accepts = rates(threshold)
                return misses - false_accepts

            return rates(brentq(gap, low, high))[0]

        def score_of_llr(llr: float) -> NDArray[np.float64]:
            return np.clip(middle + (llr - d) / (c * separation), (llr - MAX_SHIFT - b) / a, (llr + MAX_SHIFT - b) / a)

        low = float(min(nontarget.min(), target.min())) - 10 * self.deviation
        high = float(max(nontarget.max(), target.max())) + 10 * self.deviation
        llr_low, llr_high = a * low + b - MAX_SHIFT, a * high + b + MAX_SHIFT
        return eer(lambda threshold: threshold, low, high), eer(score_of_llr, llr_low, llr_high)

    def _means(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) means of the scores of targets and of non-targets with quality ``q``."""
        if q.shape[1] < len(self.measures):
            raise ValueError(f"{q.shape[1]} quality measures, expected {len(self.measures)}")
        x = self._centred(q)
        return self.target_mean + x @ np.array(self.target_slope), self.nontarget_mean + x @ np.array(
            self.nontarget_slope
        )

    def _centred(self, q: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, K)."""
        sides = np.clip(q[:, : len(self.measures)].transpose(0, 2, 1), self.low, self.high)
        return np.asarray(sides.mean(axis=1) - np.array(self.centre))

    def conditional(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Separation (N,), which is 1 at the centre, and middle (N,) of trials with the measures ``q`` (N, K, 2)."""
        target, nontarget = self._means(q)
        separation = np.clip((target - nontarget) / (self.target_mean - self.nontarget_mean), *_SEPARATIONS)
        return separation, (target + nontarget) / 2
