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
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, ndtr

from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

MAX_DURATION_S = 20.0
"""Longer utterances are not more trustworthy (WeSpeaker's value)."""
RIDGE = 1e-5
"""Of the squared weight of the standardised score: nothing to a good fit, a limit where classes are separable."""
MEASURES = ("log duration", "log length", "cohort mean")
MAX_SHIFT = math.log(3)
"""Nats by which quality measures may change what the score alone says: the odds by a factor of three."""
EQUAL_DURATIONS = 0.25
"""Durations with a lower EER give the speaker away; those of unrelated recordings have one half."""
_SEPARATIONS = (0.5, 2.0)
_NUM_FOLDS = 5
_FOLD_SEED = 0xF01D
_PREDICTED_TRIALS = 5000


class CalibrationError(RecipeError):
    """The calibration list teaches nothing."""


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
        separation, middle = self._conditional(q)
        full = self.full[0] * separation * (scores - middle) + self.full[1]
        return base + np.clip(full - base, -MAX_SHIFT, MAX_SHIFT)

    def expected_eers(self, q: NDArray[np.float64]) -> tuple[float, float]:
        """EER of scores and of log-likelihood ratios where quality is ``q`` (N, K, 2), whoever speaks.

        Those of the normal distributions of the fitted model, over the quality of all N trials for targets and for
        non-targets alike: what measures can do honestly. N is thinned to a few thousand.
        """
        q = q[:: max(1, len(q) // _PREDICTED_TRIALS)]
        target, nontarget = self._means(q)
        separation, middle = self._conditional(q)
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

    def _conditional(self, q: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) separation, 1 at the centre, and middle."""
        target, nontarget = self._means(q)
        separation = np.clip((target - nontarget) / (self.target_mean - self.nontarget_mean), *_SEPARATIONS)
        return separation, (target + nontarget) / 2


class EerCheck(NamedTuple):
    """The equal error rate of a list before and after its calibration, and of its durations. All are fractions.

    A rising map of the score leaves an EER as it is, so what changes it is quality.
    """

    before: float
    after: float
    allowed: float
    """Twice the change that the model expects (:meth:`Calibration.expected_eers`) and two standard errors of a rate on
    so many trials."""
    durations: float
    """Of a verification by nothing but how equal both durations are: a half where these say nothing."""

    @property
    def is_sound(self) -> bool:
        """Whether the change is no more than it may be, up or down."""
        return abs(self.after - self.before) <= self.allowed

    def notes(self) -> list[str]:
        """What a reader of the figures must know, a sentence each; nothing where all is well."""
        notes = []
        if not self.is_sound:
            notes.append(
                f"EER {100 * self.before:.2f} % before calibration and {100 * self.after:.2f} % after it, where it may "
                f"change by {100 * self.allowed:.2f} %; quality measures (durations, ...) stand in for voices. Do not "
                "quote the calibrated figures; calibrate without measures (wespeaker-qm calibrate --quality false)"
            )
        if self.durations < EQUAL_DURATIONS:
            notes.append(
                f"durations alone, without listening, have an EER of {100 * self.durations:.2f} %: targets look like "
                "pieces of one recording, cut to equal length, and tell nothing of voices recorded on another day"
            )
        return notes


def check_eer(
    model: Calibration,
    scores: NDArray[np.float64],
    llr: NDArray[np.float64],
    q: NDArray[np.float64],
    is_target: NDArray[np.bool_],
) -> EerCheck:
    """Compare the EER of ``scores`` (N,) and of the ratios ``llr`` (N,) that ``model`` made of them.

    ``q`` (N, K', 2) has at least the durations.

    The standard error is that of the mean of miss rate and false-accept rate, ``sqrt(e (1 - e) (1/T + 1/F)) / 2`` of T
    target and F non-target trials. Trials of one speaker depend on each other, which would make it larger; both rates
    are of the same trials, which makes that of their difference far smaller.

    Raises:
        RecipeError: there are no targets or no non-targets.
    """
    equality = -np.abs(q[:, 0, 0] - q[:, 0, 1])
    before, after, durations = (
        equal_error_rate(roc_steps(values, is_target)).rate for values in (scores, llr, equality)
    )
    if not model.measures:
        return EerCheck(before, after, 1e-9, durations)  # of round-off: two scores may become one ratio
    expected = model.expected_eers(q)
    num_targets = int(is_target.sum())
    rate = max(before, after)
    error = math.sqrt(rate * (1 - rate) * (1 / num_targets + 1 / (len(is_target) - num_targets))) / 2
    return EerCheck(before, after, 2 * abs(expected[1] - expected[0]) + 2 * error, durations)


def save(path: Path | str, model: Calibration, checks: Mapping[str, EerCheck]) -> None:
    """Write the model and the checks of the trial lists (name -> check) as JSON, and its checksum."""
    content = {
        "version": STAGE_VERSIONS["calibrate"],
        "model": dataclasses.asdict(model),
        "lists": {name: check._asdict() for name, check in checks.items()},
    }
    write_checked_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def load(path: Path | str) -> tuple[Calibration, dict[str, EerCheck]]:
    """Read what :func:`save` wrote.

    Raises:
        RecipeError: no such file, damaged, or of another version.
    """
    path = Path(path)
    remedy = "calibrate the run again (run.sh --stage 7)"
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; {remedy}")
    content = read_checked_json(path, f"delete it and {remedy}")
    try:
        version = content.get("version", 1)
        if version != STAGE_VERSIONS["calibrate"]:
            raise RecipeError(
                f"{path}: found version {version}, expected {STAGE_VERSIONS['calibrate']}; in version 1 (which had no "
                f"number) quality measures could decide alone; {remedy}"
            )
        fields: dict[str, Any] = {
            key: tuple(value) if key in ("base", "full") else value for key, value in content["model"].items()
        }
        return Calibration(**fields), {name: EerCheck(**check) for name, check in content["lists"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"{path}: not a calibration ({error!r}); delete it and {remedy}") from None


class Choice(NamedTuple):
    """How many of the measures to use, and why."""

    num_measures: int
    cllr: dict[int, float]
    """Number of measures -> mean Cllr in cross-validation; nan where the speakers are too few to be divided."""


def choose(
    scores: NDArray[np.float64], q: NDArray[np.float64], is_target: NDArray[np.bool_], speakers: TrialSpeakers
) -> Choice:
    """Which measures help with other speakers: none, the durations (1), or all of them.

    Of each of 5 folds of the speakers the trials with any of them are judged by a fit on the trials with none. Measures
    are added where Cllr falls by more than one standard error of its fall over the folds (the rule of Breiman et al.
    1984): with few speakers measures learn these speakers.

    Args:
        scores: (N,).
        q: (N, K, 2) of :func:`quality`.
        is_target: (N,).
        speakers: of the trials.
    """
    fold = np.random.default_rng(_FOLD_SEED).permutation(speakers.num_speakers) % _NUM_FOLDS
    counts = list(dict.fromkeys([0, 1, q.shape[1]]))
    reached: list[list[float]] = []
    for number in range(_NUM_FOLDS):
        test = (fold[speakers.enrolment] == number) | (fold[speakers.test] == number)
        if not is_target[test].any() or is_target[test].all():
            continue
        try:
            models = [fit(scores[~test], q[~test, :count], is_target[~test]) for count in counts]
        except CalibrationError:  # in a part of a list of few speakers
            return Choice(0, {0: math.nan})
        reached.append([cllr(model.apply(scores[test], q[test]), is_target[test]) for model in models])
    if len(reached) < 2:
        return Choice(0, {0: math.nan})
    folds = np.array(reached)
    best = 0
    for position in range(1, len(counts)):
        fall = folds[:, best] - folds[:, position]
        if fall.mean() > fall.std(ddof=1) / math.sqrt(len(folds)):
            best = position
    return Choice(counts[best], dict(zip(counts, folds.mean(axis=0).tolist(), strict=True)))


def fit(scores: NDArray[np.float64], q: NDArray[np.float64], is_target: NDArray[np.bool_]) -> Calibration:
    """Fit on the trials of a calibration list.

    Args:
        scores: (N,).
        q: (N, K, 2) of :func:`quality`; K = 0 for the score alone.
        is_target: (N,).

    Raises:
        CalibrationError: a kind of trial is missing, or scores of targets are not above those of non-targets.
        RecipeError: a score or a measure is not finite.
    """
    if is_target.all() or not is_target.any():
        raise CalibrationError("the calibration list has trials of one kind only, expected targets and non-targets")
    if not (np.isfinite(scores).all() and np.isfinite(q).all()):
        raise RecipeError(
            "a score or quality measure of the calibration list is not finite; look for broken embeddings"
        )
    base = _logistic(scores, is_target)
    sides = q.transpose(0, 2, 1)
    mean_of_sides = sides.mean(axis=1)
    centre = (mean_of_sides[is_target].mean(axis=0) + mean_of_sides[~is_target].mean(axis=0)) / 2
    columns = np.column_stack([np.ones(len(scores)), mean_of_sides - centre])
    residual = np.empty_like(scores)
    means, slopes = [], []
    for kind in (is_target, ~is_target):
        # The least-norm solution: a measure that is constant has no slope.
        solution = np.linalg.lstsq(columns[kind], scores[kind], rcond=1e-9)[0]
        residual[kind] = scores[kind] - columns[kind] @ solution
        means.append(float(solution[0]))
        slopes.append(solution[1:].tolist())
    if not means[0] > means[1]:
        raise CalibrationError(
            f"calibration failed: scores of targets are {means[0]:.3g} at the mean quality, those of non-targets "
            f"{means[1]:.3g}, expected the first to be higher"
        )
    variance = sum(float((residual[kind] ** 2).mean()) for kind in (is_target, ~is_target)) / 2
    model = Calibration(
        measures=list(MEASURES[: q.shape[1]]),
        low=sides.min(axis=(0, 1)).tolist(),
        high=sides.max(axis=(0, 1)).tolist(),
        centre=centre.tolist(),
        target_mean=means[0],
        nontarget_mean=means[1],
        target_slope=slopes[0],
        nontarget_slope=slopes[1],
        deviation=max(math.sqrt(variance), 1e-9 * (means[0] - means[1])),
        base=base,
        full=base,
    )
    if not model.measures:
        return model
    separation, middle = model._conditional(q)
    return dataclasses.replace(model, full=_logistic(separation * (scores - middle), is_target))


def _logistic(x: NDArray[np.float64], is_target: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the logistic regression of the labels on ``x`` (N,), both kinds weighing alike.

    Raises:
        CalibrationError: the slope is not above 0.
    """
    mean, deviation = float(x.mean()), float(x.std()) or 1.0
    standard = (x - mean) / deviation
    sign = np.where(is_target, 1.0, -1.0)
    share = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parameters
        margin = sign * (standard * weight + bias)
        slope = -share * sign * expit(-margin)
        gradient = np.array([slope @ standard + 2 * RIDGE * weight, slope.sum()])
        return float(share @ np.logaddexp(0, -margin) + RIDGE * weight**2), gradient

    result = minimize(cost, np.zeros(2), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weight, bias = result.x.tolist()
    if not math.isfinite(result.fun) or weight <= 0:
        raise CalibrationError(
            f"calibration failed: weight {weight:.3g} of the score, expected more than 0; do the scores of the "
            "calibration list tell targets from non-targets?"
        )
    return weight / deviation, bias - weight * mean / deviation
