"""A score file's content in binary, beside it: ``<file>.npz``, uncompressed arrays of numpy.

Text is most of the time that a million scores take. The cache holds what the text says, to the last digit, and the
checksum of the text it belongs to; it is used where that is the file's, and ignored otherwise. A cache that was written
instead of a text stands alone (``score --text false``).
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.utils.checksums import checked_path, checksum_of, verify
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.remedies import mended


class ScoreCache(NamedTuple):
    """N scored trials between U utterances."""

    utterances: list[str]
    """U names."""
    enrolment: NDArray[np.int32]
    """(N,) indices into ``utterances``."""
    test: NDArray[np.int32]
    """(N,) likewise."""
    is_target: NDArray[np.bool_]
    """(N,)."""
    scores: NDArray[np.float64]
    """(N,)."""
    measures: NDArray[np.float64] | None
    """(N, 4) further columns, or None."""


def cache_path(path: Path) -> Path:
    """Where the cache of a score file lies."""
    return Path(f"{path}.npz")


def write_cache(path: Path, content: ScoreCache) -> None:
    """Write the cache of the score file ``path``; where there is to be a text, it has been written before."""
    names = np.frombuffer("\n".join(content.utterances).encode(), np.uint8)
    arrays = {name: array for name, array in content._asdict().items() if array is not None}
    arrays |= {"text": _stamp(path), "utterances": names}
    with checked_path(cache_path(path)) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)


def read_cache(path: Path) -> ScoreCache | None:
    """The cache of ``path``; None where there is none, or it belongs to another text, or is damaged beside its text.

    Raises:
        RecipeError: the cache is all there is, and it is damaged.
    """
    cache = cache_path(path)
    if not cache.is_file():
        return None
    try:
        verify(cache, mended(cache))
        _refuse_compressed(cache)
        with np.load(cache, allow_pickle=False) as arrays:
            if path.is_file() and not np.array_equal(arrays["text"], _stamp(path)):
                return None
            content = ScoreCache(
                utterances=arrays["utterances"].tobytes().decode().split("\n"),
                enrolment=arrays["enrolment"],
                test=arrays["test"],
                is_target=arrays["is_target"],
                scores=arrays["scores"],
                measures=arrays.get("measures", None),
            )
            _check(content)
            return content
    except Exception as error:  # numpy's and zipfile's of a damaged file are of many kinds
        if path.is_file():
            return None
        raise RecipeError(f"{cache}: cannot be read ({error}); {mended(cache)}") from error


def _check(content: ScoreCache) -> None:
    """Refuse what no score file has: another program wrote it, or somebody who wants to deceive.

    Raises:
        ValueError: with what is wrong.
    """
    num_trials = np.shape(content.scores)[:1]
    kinds = {"enrolment": np.int32, "test": np.int32, "is_target": np.bool_, "scores": np.float64}
    for name, kind in kinds.items():
        array = getattr(content, name)
        if array.dtype != kind or array.shape != num_trials or not len(array):
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, expected {np.dtype(kind)} (trials,)")
    measures = content.measures
    if measures is not None and (measures.dtype.kind != "f" or measures.ndim != 2 or measures.shape[:1] != num_trials):
        raise ValueError(
            f"measures are {measures.dtype} of shape {measures.shape}, expected (trials, columns) of floats"
        )
    sides = np.concatenate([content.enrolment, content.test])
    if sides.min() < 0 or sides.max() >= len(content.utterances) or not np.isfinite(content.scores).all():
        raise ValueError("trials of utterances that are not there, or scores that are not finite")
    if len(set(content.utterances)) != len(content.utterances):
        raise ValueError("an utterance stands twice")


def _refuse_compressed(cache: Path) -> None:
    """No array of ours is: a small file cannot become one that fills the memory."""
    with zipfile.ZipFile(cache) as content:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in content.infolist()):
            raise ValueError("compressed, which the caches of score files are not")


def _stamp(path: Path) -> NDArray[np.int64]:
    """Checksum of the text; nothing where there is no text."""
    return np.array(checksum_of(path) if path.is_file() else [], np.int64)
