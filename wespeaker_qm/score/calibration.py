"""Calibration: scores become log-likelihood ratios, which can be thresholded for any prior.

Logistic regression on the trials of other speakers, targets and non-targets weighing alike, so that its output is a
log-likelihood ratio (Brümmer and du Preez 2006)::

    llr = b + sum_k w_k (x_k - mean_k) / deviation_k

The features x are the score and what tells how far to trust it (quality measures, as in WeSpeaker): of both sides the
smaller and the larger logarithm of the duration, logarithm of the embedding's length, and cohort mean.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers
from wespeaker_qm.utils.checksums import read_checked_json, write_checked_text
from wespeaker_qm.utils.errors import RecipeError

MAX_DURATION_S = 20.0
"""Longer utterances are not more trustworthy (WeSpeaker's value)."""
RIDGE = 1e-5
"""Of the squared weights of the standardised features: nothing to a good fit, a limit where classes are separable."""
_NUM_FOLDS = 5
_FOLD_SEED = 0xF01D
FEATURES = (
    "score",
    "log duration, smaller",
    "log duration, larger",
    "log length, smaller",
    "log length, larger",
    "cohort mean, smaller",
    "cohort mean, larger",
)


class CalibrationError(RecipeError):
    """The calibration list teaches nothing."""


def features(
    scores: NDArray[np.float64], duration_s: NDArray[np.float64], measures: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """The features of N trials.

    Args:
        scores: (N,).
        duration_s: (N, 2) of both sides.
        measures: (N, 4) embeddings' lengths and cohort means of both sides; None leaves them out.

    Returns:
        (N, 7), or (N, 3) without measures.
    """
    pairs = [np.log(np.minimum(duration_s, MAX_DURATION_S))]
    if measures is not None:
        pairs += [np.log(measures[:, :2]), measures[:, 2:]]
    columns = [scores]
    for pair in pairs:
        columns += [pair.min(axis=1), pair.max(axis=1)]
    return np.stack(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted calibration; all lists are of the same length, one entry a feature."""

    features: list[str]
    mean: list[float]
    deviation: list[float]
    weight: list[float]
    """Of the standardised features."""
    bias: float

    def apply(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) natural log-likelihood ratios of features ``x`` (N, K).

        Raises:
            ValueError: K is another than the fitted one.
        """
        if x.shape[1] != len(self.weight):
            raise ValueError(f"{x.shape[1]} features, expected {len(self.weight)}")
        standard = (x - np.array(self.mean)) / np.array(self.deviation)
        return np.asarray(standard @ np.array(self.weight) + self.bias)

    def save(self, path: Path | str) -> None:
        """Write JSON, and its checksum."""
        write_checked_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "Calibration":
        """Read what :meth:`save` wrote.

        Raises:
            RecipeError: damaged, or something else.
        """
        remedy = "delete it and calibrate again (stage 7)"
        try:
            return cls(**read_checked_json(path, remedy))
        except TypeError as error:
            raise RecipeError(f"{path}: not a calibration ({error}); {remedy}") from None


def choose(x: NDArray[np.float64], is_target: NDArray[np.bool_], speakers: TrialSpeakers) -> dict[int, float]:
    """Which measures help with other speakers: number of leading features -> Cllr in cross-validation, the best first.

    Of each of 5 folds of the speakers the trials with any of them are judged by a fit on the trials with none. With
    few speakers the measures learn these speakers, and the score alone (1) wins; 3 adds durations, 7 the rest.

    Args:
        x: (N, K) features.
        is_target: (N,).
        speakers: of the trials.

    Returns:
        One entry for each of 1, 3 and 7 that is at most K; only 1 where the speakers are too few to be divided.
    """
    fold = np.random.default_rng(_FOLD_SEED).permutation(speakers.num_speakers) % _NUM_FOLDS
    touched = [(fold[speakers.enrolment] == number) | (fold[speakers.test] == number) for number in range(_NUM_FOLDS)]
    reached: dict[int, float] = {}
    for count in (1, 3, 7):
        if count > x.shape[1]:
            continue
        costs: list[NDArray[np.float64]] = []
        kinds: list[NDArray[np.bool_]] = []
        for test in touched:
            train = ~test
            try:
                model = fit(x[train, :count], is_target[train])
            except CalibrationError:  # in a part of a list of few speakers
                return {1: math.nan}
            costs.append(model.apply(x[test, :count]))
            kinds.append(is_target[test])
        all_kinds = np.concatenate(kinds)
        if all_kinds.all() or not all_kinds.any():
            return {1: math.nan}
        reached[count] = cllr(np.concatenate(costs), all_kinds)
    return dict(sorted(reached.items(), key=lambda item: item[1]))


def fit(x: NDArray[np.float64], is_target: NDArray[np.bool_]) -> Calibration:
    """Fit on the trials of a calibration list.

    Args:
        x: (N, K) features, K at most 7, in the order of ``FEATURES``.
        is_target: (N,).

    Raises:
        CalibrationError: a kind of trial is missing, or the score has no weight above 0.
        RecipeError: a feature is not finite.
    """
    if is_target.all() or not is_target.any():
        raise CalibrationError("the calibration list has trials of one kind only, expected targets and non-targets")
    if not np.isfinite(x).all():
        raise RecipeError("a quality measure of the calibration list is not finite; look for broken embeddings")
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1.0  # a constant measure has no weight, by the ridge
    standard = (x - mean) / deviation
    sign = np.where(is_target, 1.0, -1.0)
    share = np.where(is_target, 0.5 / is_target.sum(), 0.5 / (~is_target).sum())

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parameters[:-1], parameters[-1]
        margin = sign * (standard @ weight + bias)
        slope = -share * sign * expit(-margin)
        gradient = np.append(slope @ standard + 2 * RIDGE * weight, slope.sum())
        return float(share @ np.logaddexp(0, -margin) + RIDGE * weight @ weight), gradient

    result = minimize(cost, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    if not math.isfinite(result.fun) or result.x[0] <= 0:
        raise CalibrationError(
            f"calibration failed: weight {result.x[0]:.3g} of the score, expected more than 0; do the scores of the "
            "calibration list tell targets from non-targets?"
        )
    return Calibration(
        list(FEATURES[: x.shape[1]]), mean.tolist(), deviation.tolist(), result.x[:-1].tolist(), float(result.x[-1])
    )
