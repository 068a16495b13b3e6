"""Whether a calibration left the order of scores as it must: quality measures stand in for no voice."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.score.calibration import Calibration

EQUAL_DURATIONS = 0.25
"""Durations with a lower EER give the speaker away; those of unrelated recordings have one half."""


class EerCheck(NamedTuple):
    """The equal error rate of a list before and after its calibration, and of its durations. All are fractions.

    A rising map of the score leaves an EER as it is, so what changes it is quality.
    """

    before: float
    after: float
    allowed: float
    """Twice the change that the model expects (:meth:`.Calibration.expected_eers`) and two standard errors of a rate on
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
    """Compare the EER of scores with that of the log-likelihood ratios that a calibration made of them.

    The standard error is that of the mean of miss rate and false-accept rate, ``sqrt(e (1 - e) (1/T + 1/F)) / 2`` of T
    target and F non-target trials. Trials of one speaker depend on each other, which would make it larger; both rates
    are of the same trials, which makes that of their difference far smaller.

    Args:
        model: the calibration.
        scores: (N,).
        llr: (N,) what ``model`` made of them.
        q: (N, K', 2) of :func:`wespeaker_qm.score.calibration.quality`, at least the durations.
        is_target: (N,).

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
