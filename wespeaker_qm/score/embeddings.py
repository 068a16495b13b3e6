"""Embeddings of named utterances from Kaldi's ark and scp, as one matrix.

Vectors of floats or doubles, which is what extractors write, are taken straight from the memory-mapped ark: 137,000 of
them in half a second. Any other entry (compressed, text, through a pipe) is read by kaldiio.
"""

import mmap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.trial_table import first_few
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import read_map

_DTYPES: dict[bytes, np.dtype[Any]] = {b"\0BFV \4": np.dtype("<f4"), b"\0BDV \4": np.dtype("<f8")}
"""First bytes of a binary vector -> type of its values; a four-byte length stands between."""
_HEADER_BYTES = 6


def load_embeddings(scp: Path | str, utterances: Sequence[str]) -> NDArray[np.float32]:
    """Read the embeddings of ``utterances`` from a Kaldi ark through its scp.

    Paths in the scp may be relative to the current directory, as in Kaldi.

    Returns:
        (U, D) float32, in the order of ``utterances``.

    Raises:
        RecipeError: the scp or an ark is missing, an utterance has no embedding, dimensions differ, or values are not
            finite; the first few utterances are named, and all are counted.
    """
    table = read_map(scp)
    missing = [utterance for utterance in utterances if utterance not in table]
    if missing:
        raise RecipeError(
            f"{scp}: {len(missing)} of the {len(utterances)} utterances in the trials have no embedding; extract the "
            "set that the trial list draws from (stage 4):" + first_few(missing)
        )
    try:
        matrix = _read(scp, [table[utterance] for utterance in utterances])
    except (OSError, ValueError) as error:
        raise RecipeError(f"{scp}: cannot be read ({error}); extract the embeddings again (stage 4)") from error
    refuse(scp, utterances, np.logical_not(np.isfinite(matrix).all(axis=1)), "hold values that are not finite")
    return matrix


def refuse(source: Path | str, utterances: Sequence[str], is_bad: NDArray[np.bool_], complaint: str) -> None:
    """Raise for the utterances whose embeddings ``is_bad`` (U,).

    Raises:
        RecipeError: there are some; the first few are named.
    """
    bad = [utterances[row] for row in np.flatnonzero(is_bad).tolist()]
    if bad:
        raise RecipeError(
            f"{source}: {len(bad)} of {len(utterances)} embeddings {complaint}; look at these recordings and at the "
            "model, then extract again (stage 4):" + first_few(bad)
        )


def _read(scp: Path | str, places: list[str]) -> NDArray[np.float32]:
    """The vectors at ``places``, each ``ark:offset`` or whatever else kaldiio reads."""
    rows_of: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    others: list[int] = []
    for row, place in enumerate(places):
        ark, _, position = place.rpartition(":")
        if ark and position.isdigit():
            rows_of[ark].append((row, int(position)))
        else:
            others.append(row)
    matrix: NDArray[np.float32] | None = None
    for ark, rows in rows_of.items():
        with Path(ark).open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for row, offset in rows:
                start = offset + _HEADER_BYTES + 4
                dtype = _DTYPES.get(content[offset : offset + _HEADER_BYTES])
                if dtype is None:
                    others.append(row)
                    continue
                dim = int.from_bytes(content[start - 4 : start], "little")
                if matrix is None:
                    matrix = np.empty((len(places), dim), np.float32)
                _check_dim(scp, dim, matrix.shape[1])
                values = np.frombuffer(content[start : start + dim * dtype.itemsize], dtype)
                if len(values) != dim:
                    raise ValueError(f"{ark} ends within the vector at byte {offset}")
                matrix[row] = values
    return _read_others(scp, places, others, matrix)


def _read_others(
    scp: Path | str, places: list[str], rows: list[int], matrix: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Fill the remaining ``rows`` of ``matrix``, which is made if there is none yet."""
    import kaldiio

    for row in rows:
        vector = kaldiio.load_mat(places[row])
        if vector.ndim != 1:
            raise RecipeError(
                f"{scp}: found an embedding of shape {vector.shape}, expected one vector length throughout"
            )
        if matrix is None:
            matrix = np.empty((len(places), len(vector)), np.float32)
        _check_dim(scp, len(vector), matrix.shape[1])
        matrix[row] = vector
    if matrix is None:
        raise RecipeError(f"{scp}: no embedding was asked for")
    return matrix


def _check_dim(scp: Path | str, found: int, expected: int) -> None:
    if found != expected:
        raise RecipeError(
            f"{scp}: embeddings have lengths {expected} and {found}, expected one vector length throughout; extract "
            "all of them with one model (stage 4)"
        )
