"""Embeddings into scores, as stages 5 to 7 make them: cosine less the mean, normalised, calibrated.

Legend: N and M embeddings, D dimension.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.export.folder import ModelFolder
from wespeaker_qm.score.calibration import Calibration, quality
from wespeaker_qm.score.cosine import Directions
from wespeaker_qm.score.normalisation import CohortDirections, CohortStatistics, normalised_scores
from wespeaker_qm.trials.table import TrialTable


class Sides(NamedTuple):
    """N embeddings as one side of trials: made once, scored against as many others as one likes."""

    unit: NDArray[np.float64]
    """(N, D) directions from the training mean."""
    length: NDArray[np.float64]
    """(N,) of the embeddings less the mean."""
    cohort_mean: NDArray[np.float64]
    """(N,) of the cosines with the cohort; 0 without one."""
    cohort_deviation: NDArray[np.float64]
    """(N,) likewise; 1 without one."""


class Scorer:
    """The scoring of a model folder.

    Args:
        folder: the model.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.embed_dim = folder.network.embed_dim
        self._mean = folder.mean
        self._cohort = None
        if folder.cohort is not None and folder.scoring.normalisation != "cosine":
            self._cohort = CohortDirections.of(folder.cohort, folder.mean, folder.scoring.top_n)
        self.fingerprint = _fingerprint(folder)
        """Scorers with the same one make the same scores of the same embeddings."""
        self._calibration = None if folder.calibration is None else Calibration(**folder.calibration)

    def sides(self, embeddings: NDArray[np.float32]) -> Sides:
        """Embeddings (N, D), raw as they were extracted, or one of them (D,), made ready.

        Raises:
            ValueError: another dimension.
            RecipeError: one of them equals the training mean, and so has no direction.
        """
        rows = np.atleast_2d(embeddings)
        if rows.ndim != 2 or rows.shape[1] != self.embed_dim:
            raise ValueError(f"embeddings of shape {np.shape(embeddings)}, expected (N, {self.embed_dim})")
        directions = Directions.of(rows, self._mean, [f"embedding {row}" for row in range(len(rows))])
        return self._sides(directions, directions.length)

    def _sides(self, directions: Directions, length: NDArray[np.float64]) -> Sides:
        statistics = CohortStatistics(np.zeros(len(length)), np.ones(len(length)))
        if self._cohort is not None:
            statistics = self._cohort.statistics(directions)
        return Sides(directions.unit(slice(None)), length, statistics.mean, statistics.deviation)

    def speakers(self, embeddings: NDArray[np.float32], owner: NDArray[np.intp]) -> Sides:
        """N speakers as one side of trials, each the mean of the directions of its embeddings.

        Args:
            embeddings: (U, D) raw.
            owner: (U,) whose each is, from 0 to N - 1; everybody has one.

        Raises:
            RecipeError: an embedding equals the training mean, or the directions of a speaker cancel out.
        """
        directions = Directions.of(embeddings, self._mean, [f"embedding {row}" for row in range(len(embeddings))])
        counts = np.bincount(owner)
        sums = np.zeros((len(counts), self.embed_dim))
        np.add.at(sums, owner, directions.unit(slice(None)))
        means = (sums / counts[:, None]).astype(np.float32)
        together = Directions.of(means, None, [f"speaker {row}" for row in range(len(means))])
        return self._sides(together, np.bincount(owner, directions.length) / counts)

    def cosines(self, enrolment: Sides, test: Sides) -> NDArray[np.float64]:
        """(N, M) cosines of N enrolled with M tested embeddings, each less the training mean."""
        return np.clip(enrolment.unit @ test.unit.T, -1.0, 1.0)

    def scores(self, enrolment: Sides, test: Sides) -> NDArray[np.float64]:
        """(N, M) scores: the cosines, each measured by both sides' scores with the cohort; accept the high ones."""
        cosines = self.cosines(enrolment, test)
        one = (cosines - enrolment.cohort_mean[:, None]) / enrolment.cohort_deviation[:, None]
        other = (cosines - test.cohort_mean) / test.cohort_deviation
        return (one + other) / 2

    def of_trials(self, trials: TrialTable, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) scores of a trial list, by the code of stages 5 and 6.

        Args:
            trials: N of U utterances.
            embeddings: (U, D) raw, in the order of ``trials.utterances``.

        Raises:
            RecipeError: an embedding equals the training mean.
        """
        directions = Directions.of(embeddings, self._mean, trials.utterances)
        cosines = directions.cosines(trials.enrolment, trials.test)
        if self._cohort is None:
            return cosines
        return normalised_scores(trials, cosines, self._cohort.statistics(directions))

    def log_likelihood_ratio(
        self, score: float, sides: tuple[Sides, Sides], duration_s: tuple[float, float]
    ) -> float | None:
        """The natural log-likelihood ratio that the calibration makes of the score of two single embeddings.

        Args:
            score: of :meth:`scores`.
            sides: one embedding each.
            duration_s: seconds of audio that each was made of.

        Returns:
            None where the model has no calibration.
        """
        if self._calibration is None:
            return None
        measures = [*(side.length for side in sides), *(side.cohort_mean for side in sides)]
        q = quality(np.array([duration_s]), np.stack(measures, axis=1))
        return float(self._calibration.apply(np.array([score]), q)[0])


def _fingerprint(folder: ModelFolder) -> str:
    digest = hashlib.sha256(f"{folder.scoring.normalisation} {folder.scoring.top_n}".encode())
    for part in (folder.mean, folder.cohort):
        digest.update(b"" if part is None else str(part.shape).encode() + part.tobytes())
    return digest.hexdigest()
