"""Embeddings of files into a file: npz, Kaldi's ark and scp, or JSON lines."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.speaker.speaker import Speaker, Windows
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text
from wespeaker_qm.utils.vectors import write_vectors

_ARK = "ark,scp:"
_MOST_LINE_BYTES = 1 << 20


class _Row(NamedTuple):
    """An embedding."""

    file: str
    span_s: tuple[float, float] | None
    """Of the window; None for the whole recording."""
    embedding: NDArray[np.float32]
    """(D,)"""

    @property
    def key(self) -> str:
        """Of the embedding in Kaldi's files: the path, of a window with its times in hundredths of a second."""
        return (
            self.file
            if self.span_s is None
            else "{}-{:07.0f}-{:07.0f}".format(self.file, *np.multiply(self.span_s, 100))
        )


def embed_files(
    model: Speaker,
    files: Sequence[str],
    *,
    out: str | None = None,
    window_s: float | None = None,
    step_s: float | None = None,
    batch: int = 16,
) -> None:
    """Embed recordings and write the embeddings, raw as stage 4 extracts them.

    Args:
        model: what embeds.
        files: paths, or ``-`` for standard input.
        out: ``X.npz`` (``names``, ``embeddings`` (N, D), of windows ``start_s`` and ``end_s``), ``X.jsonl``, or
            ``ark,scp:X``; None for JSON lines on standard output.
        window_s: length of windows in seconds; None embeds recordings whole.
        step_s: from one window to the next; None for half a window.
        batch: recordings, or windows, that are read together.

    Raises:
        RecipeError: a recording cannot be used, ``out`` is no such file or holds something else, a name stands twice;
            nothing is written.
    """
    if out is not None:
        place = Path(out.removeprefix(_ARK))
        if place.name in ("", "..") or not (out.startswith(_ARK) or place.suffix in (".npz", ".jsonl")):
            raise RecipeError(f"--out: found {out}, expected X.npz, X.jsonl or {_ARK}X")
        _refuse_foreign(out)
    if step_s is not None and window_s is None:
        raise RecipeError(f"--step: found {step_s:g} without --window, expected both")
    rows = _rows(model, files, window_s, step_s, batch)
    if out is None:
        for row in rows:
            print(_json(row), flush=True)
        return
    every = list(rows)
    if out.startswith(_ARK):
        place = Path(out.removeprefix(_ARK))
        _write_kaldi(place, every)
    elif Path(out).suffix == ".jsonl":
        write_text(out, "".join(_json(row) + "\n" for row in every))
    else:
        arrays = {
            "names": np.array([row.file for row in every]),
            "embeddings": np.stack([row.embedding for row in every]),
        }
        if window_s is not None:
            spans = np.array([row.span_s for row in every])
            arrays |= {"start_s": spans[:, 0], "end_s": spans[:, 1]}
        with atomic_path(out) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]


def _refuse_foreign(out: str) -> None:
    """Embeddings are written over nothing, or over embeddings.

    Raises:
        RecipeError: something else lies there.
    """
    stem = Path(out.removeprefix(_ARK))
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("scp", "ark")] if out.startswith(_ARK) else [stem]
    for path in paths:
        if path.exists() and not _is_ours(path):
            raise RecipeError(f"{path}: exists, and holds no embeddings of this program; choose another name")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {"names", "embeddings"} <= {*content.files}
        if path.suffix == ".jsonl":
            with path.open("rb") as handle:
                return {"file", "embedding"} <= {*json.loads(handle.readline(_MOST_LINE_BYTES))}
    except (OSError, EOFError, ValueError, TypeError, RecursionError, AttributeError, zipfile.BadZipFile):
        return False
    return checksum_path(path.with_suffix(path.suffix.replace("ark", "scp"))).is_file()


def _rows(
    model: Speaker, files: Sequence[str], window_s: float | None, step_s: float | None, batch: int
) -> Iterator[_Row]:
    if window_s is None:
        for first in range(0, len(files), batch):
            names = files[first : first + batch]
            for name, embedding in zip(names, model.embed(list(names), batch=batch), strict=True):
                yield _Row(name, None, embedding)
        return
    for name in files:
        windows: Windows = model.embed_windows(name, window_s, window_s / 2 if step_s is None else step_s, batch=batch)
        for start, end, embedding in zip(*windows, strict=True):
            yield _Row(name, (float(start), float(end)), embedding)


def _json(row: _Row) -> str:
    span = {} if row.span_s is None else {"start_s": row.span_s[0], "end_s": row.span_s[1]}
    return json.dumps({"file": row.file, **span, "embedding": [float(str(value)) for value in row.embedding]})


def _write_kaldi(place: Path, rows: list[_Row]) -> None:
    keys = [row.key for row in rows]
    for key in keys:
        if keys.count(key) > 1 or not key.strip() or any(letter.isspace() for letter in key):
            raise RecipeError(
                f"{key!r}: stands twice, or has spaces, which Kaldi's tables do not bear; rename the file"
            )
    write_vectors(place.parent, place.name, keys, np.stack([row.embedding for row in rows]))
