"""Cosine scoring of trial lists, with the training mean subtracted.

Equal to WeSpeaker's ``trials_cosine_score`` except that scores keep 9 significant digits (its 5 decimals make ties)
and that a missing or broken embedding is an error before the first score is computed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.trial_table import TrialTable
from wespeaker_qm.score.embeddings import load_embeddings, refuse
from wespeaker_qm.utils.errors import RecipeError

BLOCK_TRIALS = 1024
"""Trials scored at once: two blocks of 256-dimensional float64 vectors are then 4 MiB, which stay in the cache."""


def unit_vectors(
    embeddings: NDArray[np.float32],
    mean: NDArray[np.float32] | None,
    utterances: Sequence[str],
    source: Path | str = "embeddings",
) -> NDArray[np.float64]:
    """Subtract ``mean`` (D,), if there is one, and divide each row of ``embeddings`` (U, D) by its length.

    Raises:
        RecipeError: the mean has another length or is not finite, or an embedding equals the mean (no direction).
    """
    vectors: NDArray[np.float64] = embeddings.astype(np.float64)
    if mean is not None:
        if mean.shape != vectors.shape[1:] or not np.isfinite(mean).all():
            raise RecipeError(
                f"{source}: the mean vector has shape {mean.shape}, expected {vectors.shape[1:]} finite values; "
                "extract embeddings and mean with the same model (stage 4)"
            )
        vectors -= mean
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    refuse(source, utterances, length[:, 0] == 0, "equal the mean vector, so that a cosine is not defined")
    vectors /= length
    return vectors


def score_pairs(
    unit: NDArray[np.float64], enrolment: NDArray[np.int32], test: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Cosines (N,) in [-1, 1] of the rows ``enrolment`` (N,) with the rows ``test`` (N,) of ``unit`` (U, D).

    Equal to ``(unit[enrolment] * unit[test]).sum(axis=1)``, in blocks that bound the memory.
    """
    scores = np.empty(len(enrolment))
    for start in range(0, len(enrolment), BLOCK_TRIALS):
        block = slice(start, start + BLOCK_TRIALS)
        scores[block] = np.einsum("nd,nd->n", unit[enrolment[block]], unit[test[block]])
    return np.clip(scores, -1.0, 1.0)


def score_trials(trials: TrialTable, scp: Path | str, mean: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Score all ``trials`` with the embeddings of ``scp``; (N,) cosines.

    Args:
        trials: as read by :func:`wespeaker_qm.evaluate.trial_table.read_trial_table`.
        scp: Kaldi scp of the embeddings, raw as extracted.
        mean: (D,) mean embedding of the training set, subtracted first; None for plain cosines.

    Raises:
        RecipeError: as :func:`load_embeddings` and :func:`unit_vectors`, before any score is computed.
    """
    embeddings = load_embeddings(scp, trials.utterances)
    unit = unit_vectors(embeddings, mean, trials.utterances, scp)
    return score_pairs(unit, trials.enrolment, trials.test)


def load_mean(path: Path | str) -> NDArray[np.float32]:
    """Read the mean training embedding (D,) from a ``.npy`` file."""
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; extract the embeddings first (stage 4, `wespeaker-qm extract`)")
    mean: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return mean
