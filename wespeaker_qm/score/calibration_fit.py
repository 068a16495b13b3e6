"""How a calibration is fitted to the trials of other speakers, and whether quality measures help.

The model is that of :mod:`wespeaker_qm.score.calibration`. Legend: N trials, K measures.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.score.calibration import MEASURES, Calibration
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.errors import RecipeError

RIDGE = 1e-5
"""Of the squared weight of the standardised score: nothing to a good fit, a limit where classes are separable."""
_NUM_FOLDS = 5
_FOLD_SEED = 0xF01D


class CalibrationError(RecipeError):
    """The calibration list teaches nothing."""


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
        q: (N, K, 2) of :func:`wespeaker_qm.score.calibration.quality`.
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
        q: (N, K, 2) of :func:`wespeaker_qm.score.calibration.quality`; K = 0 for the score alone.
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
    separation, middle = model.conditional(q)
    return dataclasses.replace(model, full=_logistic(separation * (scores - middle), is_target))


def _logistic(x: NDArray[np.float64], is_target: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the logistic regression of the labels on ``x`` (N,), both kinds weighing alike.

    Raises:
        CalibrationError: the slope is not above 0.
    """
    from scipy.optimize import minimize  # half of a program's start

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
