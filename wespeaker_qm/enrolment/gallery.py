"""The voices of all enrolled speakers as one matrix, against which a recording is searched.

Legend: N speakers, D embedding dimension.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.speaker.scoring import Sides


class Gallery(NamedTuple):
    """N speakers as one side of trials, in float32: 100 MB for 100,000 of 256 values."""

    names: list[str]
    unit: NDArray[np.float32]
    """(N, D) direction of each."""
    length: NDArray[np.float64]
    """(N,) mean length of the embeddings less the training mean."""
    cohort_mean: NDArray[np.float64]
    """(N,)"""
    cohort_deviation: NDArray[np.float64]
    """(N,)"""
    duration_s: NDArray[np.float64]
    """(N,) seconds of audio enrolled."""

    def search(self, test: Sides, most: int) -> NDArray[np.intp]:
        """The rows (K,) of the at most ``most`` speakers who score highest with one recording, the highest first.

        One product of the matrix with the recording's direction; the recording was compared with the cohort when
        ``test`` was made, the speakers when they were enrolled.
        """
        cosines = self.unit @ test.unit[0].astype(np.float32)
        one = (cosines - self.cohort_mean) / self.cohort_deviation
        # Half the sum with the other side's deviations, which is a rising function of the cosine, like any score.
        scores = (one + (cosines - test.cohort_mean[0]) / test.cohort_deviation[0]) / 2
        count = min(most, len(scores))
        rows = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
        return rows[np.lexsort((rows, -scores[rows]))]

    def side(self, row: int) -> Sides:
        """One of the speakers as a side of trials."""
        rows = slice(row, row + 1)
        return Sides(
            self.unit[rows].astype(np.float64), self.length[rows], self.cohort_mean[rows], self.cohort_deviation[rows]
        )
