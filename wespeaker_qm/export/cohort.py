"""The cohort in half of its bits, where that changes no score by more than is printed of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.score.normalisation import cohort_statistics, normalised_scores
from wespeaker_qm.trials.table import TrialTable

SCORE_DECIMALS = 3
"""Of scores, wherever they are printed."""
MOST_TRIALS = 20_000
"""Enough to see the largest change."""


class Stored(NamedTuple):
    """What goes into the file."""

    speakers: NDArray[np.float16] | NDArray[np.float32]
    """(C, D) mean embedding of each."""
    largest_change: float
    """Of a score; 0 where nothing was changed."""


def stored_cohort(cohort: NDArray[np.float32], top_n: int | None, trials: TrialTable, directions: Directions) -> Stored:
    """float16 if no score of a trial list changes by half a unit of its last printed digit, else float32.

    All speakers are kept: which are the nearest is another question for each recording.

    Args:
        cohort: (C, D).
        top_n: how many of the nearest count; None for all.
        trials: a list; of a long one, trials at even distances are tried.
        directions: of its utterances.
    """
    with np.errstate(over="ignore"):
        halved = cohort.astype(np.float16)
    if not np.isfinite(halved).all():
        return Stored(cohort, 0.0)
    chosen = np.unique(np.linspace(0, len(trials) - 1, min(len(trials), MOST_TRIALS)).astype(np.int64))
    rows, places = np.unique(np.concatenate([trials.enrolment[chosen], trials.test[chosen]]), return_inverse=True)
    sides = places.reshape(2, -1).astype(np.int32)
    tried = TrialTable(
        trials.path, [trials.utterances[row] for row in rows], sides[0], sides[1], trials.is_target[chosen]
    )
    some = Directions(directions.embeddings[rows], directions.mean, directions.length[rows])
    cosines = some.cosines(*sides)
    scores = [
        normalised_scores(tried, cosines, cohort_statistics(some, each.astype(np.float32), top_n))
        for each in (cohort, halved)
    ]
    change = float(np.abs(scores[1] - scores[0]).max())
    return Stored(halved, change) if change < 0.5 * 10**-SCORE_DECIMALS else Stored(cohort, 0.0)
