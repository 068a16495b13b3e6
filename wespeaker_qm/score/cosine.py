"""Cosine scoring of trial lists, with the training mean subtracted.

Equal to WeSpeaker's ``trials_cosine_score`` except that scores keep 9 significant digits (its 5 decimals make ties)
and that a missing or broken embedding is an error before the first score is computed.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.vectors import VectorTable, refuse_vectors

BLOCK_ROWS = 512
"""Vectors made at once: 512 of 256 dimensions in float64 are 1 MiB, which stays in the cache."""


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Embeddings as directions from the mean: made into float64 unit vectors a block at a time."""

    embeddings: NDArray[np.float32]
    """(U, D) raw."""
    mean: NDArray[np.float64]
    """(D,) subtracted first."""
    length: NDArray[np.float64]
    """(U,) of each embedding less the mean, above 0."""

    @classmethod
    def of(
        cls,
        embeddings: NDArray[np.float32],
        mean: NDArray[np.float32] | None,
        utterances: Sequence[str],
        source: Path | str = "embeddings",
    ) -> "Directions":
        """Directions of embeddings.

        Args:
            embeddings: (U, D) raw.
            mean: (D,) subtracted first; None subtracts nothing.
            utterances: U names, for messages.
            source: where the embeddings come from, for messages.

        Raises:
            RecipeError: the mean has another length or is not finite, or an embedding equals the mean (no direction).
        """
        dim = embeddings.shape[1]
        if mean is None:
            mean = np.zeros(dim, np.float32)
        if mean.shape != (dim,) or not np.isfinite(mean).all():
            raise RecipeError(
                f"{source}: the mean vector has shape {mean.shape}, expected {(dim,)} finite values; extract "
                "embeddings and mean with the same model (run.sh --stage 4)"
            )
        directions = cls(embeddings, mean.astype(np.float64), np.ones(len(embeddings)))
        for block in _blocks(len(embeddings)):
            directions.length[block] = np.linalg.norm(directions._centred(block), axis=1)
        refuse_vectors(
            source, utterances, directions.length == 0, "equal the mean vector, so that a cosine is not defined"
        )
        return directions

    def unit(self, rows: slice | NDArray[np.int32]) -> NDArray[np.float64]:
        """(n, D) unit vectors of some rows."""
        return self._centred(rows) / self.length[rows, None]

    def cosines(self, enrolment: NDArray[np.int32], test: NDArray[np.int32]) -> NDArray[np.float64]:
        """Cosines (N,) in [-1, 1] of the rows ``enrolment`` (N,) with the rows ``test`` (N,)."""
        scores = np.empty(len(enrolment))
        for block in _blocks(len(enrolment)):
            scores[block] = np.einsum("nd,nd->n", self._centred(enrolment[block]), self._centred(test[block]))
        scores /= self.length[enrolment] * self.length[test]
        return np.clip(scores, -1.0, 1.0)

    def _centred(self, rows: slice | NDArray[np.int32]) -> NDArray[np.float64]:
        """(n, D) the mean subtracted, in float64."""
        return np.subtract(self.embeddings[rows], self.mean, dtype=np.float64)


def _blocks(count: int) -> Iterator[slice]:
    """0 to ``count`` in blocks."""
    for start in range(0, count, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, count))


def trial_directions(trials: TrialTable, scp: Path | str, mean: NDArray[np.float32] | None = None) -> Directions:
    """The directions of all utterances of ``trials``, in the order of ``trials.utterances``.

    Args:
        trials: as read by :func:`wespeaker_qm.trials.lists.read_trial_table`.
        scp: Kaldi scp of the embeddings, raw as extracted.
        mean: (D,) mean embedding of the training set, subtracted first; None for plain cosines.

    Raises:
        RecipeError: as :class:`VectorTable` and :meth:`Directions.of`.
    """
    return Directions.of(VectorTable(scp).load(trials.utterances), mean, trials.utterances, scp)


def score_trials(trials: TrialTable, scp: Path | str, mean: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Score all ``trials`` with the embeddings of ``scp``; (N,) cosines. Arguments as :func:`trial_directions`.

    Raises:
        RecipeError: as :func:`trial_directions`, before any score is computed.
    """
    return trial_directions(trials, scp, mean).cosines(trials.enrolment, trials.test)


def load_mean(path: Path | str) -> NDArray[np.float32]:
    """Read the mean training embedding (D,) from a ``.npy`` file.

    Raises:
        RecipeError: no such file, damaged, or no array of floats.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; {made_again(path)}")
    verify(path, mended(path))
    try:
        with path.open("rb") as handle:
            mean: NDArray[np.float32] = np.lib.format.read_array(handle, allow_pickle=False)
        if mean.dtype.kind not in "fiu":
            raise ValueError(f"holds {mean.dtype}")
    except Exception as error:  # numpy reads the header as Python reads a program, and raises as it does
        raise RecipeError(f"{path}: not an array of numbers ({error}); {mended(path)}") from error
    return mean
