"""Score normalisation against a cohort of speakers: S-norm and AS-norm.

An utterance that resembles everybody gets high scores with everybody. Each side of a trial is scored against a cohort
of C other speakers, and the trial's score is measured in deviations from the mean of those (Kenny 2010)::

    s' = ((s - mean_e) / deviation_e + (s - mean_t) / deviation_t) / 2

S-norm takes all of the cohort, adaptive S-norm (AS-norm: Cumani et al. 2011, Matejka et al. 2017) the ``top_n`` nearest
of it. The cohort are the mean embeddings of the training speakers, as in WeSpeaker, whose formula this is.

Memory: utterances are scored against the cohort a block at a time, so that it does not grow with their number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.progress import Progress

TOP_N = 300
_BLOCK_ROWS = 512


class CohortStatistics(NamedTuple):
    """How U utterances score against a cohort."""

    mean: NDArray[np.float64]
    """(U,) of the cohort's cosines, the nearest ``top_n`` of them for AS-norm."""
    deviation: NDArray[np.float64]
    """(U,) standard deviation of the same, above 0."""


class CohortDirections(NamedTuple):
    """A cohort of C speakers, made ready once to score any number of utterances against."""

    columns: NDArray[np.float32]
    """(D, C) unit vectors from the mean."""
    num_counted: int
    """How many of the nearest count."""

    @classmethod
    def of(cls, cohort: NDArray[np.float32], mean: NDArray[np.float32] | None, top_n: int | None) -> "CohortDirections":
        """Directions of a cohort.

        Args:
            cohort: (C, D) mean raw embeddings of the cohort's speakers.
            mean: (D,) subtracted first.
            top_n: how many of the nearest speakers count, at most C of them; None for all (S-norm).

        Raises:
            RecipeError: the cohort has fewer than 2 speakers.
        """
        num_counted = len(cohort) if top_n is None else min(top_n, len(cohort))
        if num_counted < 2:
            raise RecipeError(
                "a cohort of "
                f"{counted(num_counted, 'speaker', 'speakers')}, expected at least 2 to tell a deviation from"
            )
        names = [f"cohort speaker {number}" for number in range(len(cohort))]
        # A cosine's round-off in float32 (6e-8) is averaged over the cohort: far below the spread of a hundredth or
        # more.
        unit = Directions.of(cohort, mean, names, "the cohort").unit(slice(None))
        return cls(np.ascontiguousarray(unit.T, dtype=np.float32), num_counted)

    def statistics(self, directions: Directions, *, progress: str | None = None) -> CohortStatistics:
        """Score U utterances against the cohort.

        Args:
            directions: of the utterances.
            progress: what the progress bar says; None shows none.

        Raises:
            RecipeError: an utterance has the same cosine with all that count.
        """
        count, size = len(directions.embeddings), self.columns.shape[1]
        mean, deviation = np.empty(count), np.empty(count)
        with Progress(total=count, desc=progress, unit="utt", show=progress is not None) as bar:
            for start in range(0, count, _BLOCK_ROWS):
                block = slice(start, min(start + _BLOCK_ROWS, count))
                cosines = directions.unit(block).astype(np.float32) @ self.columns
                if self.num_counted < size:
                    cosines.partition(size - self.num_counted, axis=1)
                nearest = cosines[:, size - self.num_counted :]
                mean[block] = nearest.mean(axis=1, dtype=np.float64)
                deviation[block] = nearest.std(axis=1, dtype=np.float64)
                bar.update(block.stop - block.start)
        flat = np.flatnonzero(deviation == 0)
        if len(flat):
            of = f"of {count} utterances"
            raise RecipeError(
                f"{counted(len(flat), f'{of} has', f'{of} have')} the same cosine with all of the cohort: rows "
                f"{flat[:5].tolist()}; look at the embeddings of the cohort"
            )
        return CohortStatistics(mean, deviation)


def cohort_statistics(
    directions: Directions, cohort: NDArray[np.float32], top_n: int | None, *, progress: str | None = None
) -> CohortStatistics:
    """Score U utterances against a cohort; arguments and errors as those of :class:`CohortDirections`."""
    ready = CohortDirections.of(cohort, directions.mean.astype(np.float32), top_n)
    return ready.statistics(directions, progress=progress)


def normalised_scores(trials: TrialTable, scores: NDArray[np.float64], cohort: CohortStatistics) -> NDArray[np.float64]:
    """(N,) normalised scores of ``scores`` (N,), the statistics being those of ``trials.utterances``."""
    sides = [(scores - cohort.mean[side]) / cohort.deviation[side] for side in (trials.enrolment, trials.test)]
    return (sides[0] + sides[1]) / 2


def quality_measures(trials: TrialTable, directions: Directions, cohort: CohortStatistics) -> NDArray[np.float64]:
    """(N, 4) what WeSpeaker's normalised score files add: both lengths of embeddings, both cohort means."""
    columns = [value[side] for value in (directions.length, cohort.mean) for side in (trials.enrolment, trials.test)]
    return np.stack(columns, axis=1)
