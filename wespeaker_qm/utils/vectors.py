"""Embeddings in Kaldi's ark and scp: vectors by name, as one matrix.

Vectors of floats, which is what extractors write, are taken a window of the ark at a time; doubles, text and ranges one
by one. What would run a program, commands in the scp and pickles in the ark, is refused.
What :func:`write_vectors` wrote is read only if it is still that: the checksum of the scp covers scp and ark.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from wespeaker_qm.utils.checksums import checked_path, checksum_path, refuse_changed, remove_checked, verify
from wespeaker_qm.utils.errors import RecipeError, counted, first_few, found_at
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.remedies import mended
from wespeaker_qm.utils.tables import read_map, refuse_commands
from wespeaker_qm.utils.text import as_number, fields_of, lines_of, read_text

_FLOAT_VECTOR = np.frombuffer(b"\0BFV \4", np.uint8)
"""First bytes of a binary vector of floats; a four-byte length and the values follow."""
_BINARY_KINDS = {_FLOAT_VECTOR.tobytes(): "<f4", b"\0BDV \4": "<f8"}
_BINARY_MATRICES = (b"\0BFM", b"\0BDM")
_MOST_DIM = 1 << 24
_MOST_TEXT_BYTES = 1 << 24
_HEADER_BYTES = len(_FLOAT_VECTOR) + 4
_WINDOW_BYTES = 1 << 22
_PLACE = re.compile(r"(?P<ark>.+?)(:(?P<offset>[0-9]+))?(\[(?P<first>[0-9]+):(?P<last>[0-9]+)\])?")


class VectorTable:
    """The vectors of an scp, by name. Paths in it may be relative to the current directory, as in Kaldi.

    An ark that is not there is looked for beside the scp (:func:`place_of_ark`).

    Raises:
        RecipeError: no such scp, or not the one that was written, a name stands twice, or a place is a command.
    """

    def __init__(self, scp: Path | str) -> None:
        self.scp = Path(scp)
        self._checksums = verify(self.scp, mended(self.scp)) if self.scp.is_file() else {}
        self._places = read_map(scp)
        self._verified: set[str] = set()
        refuse_commands(self.scp, self._places)

    @property
    def names(self) -> list[str]:
        """All names, in the order of the scp."""
        return list(self._places)

    def load(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Read the vectors of ``names``.

        Returns:
            (U, D) float32, in that order.

        Raises:
            RecipeError: scp or ark are missing or not those that were written, a name has no vector, dimensions differ,
                or values are not finite; the first few names are shown, and all are counted.
        """
        places = list(map(self._places.get, names))
        if None in places:
            missing = [name for name in names if name not in self._places]
            of = f"of the {len(names)} utterances"
            raise RecipeError(
                f"{self.scp}: {counted(len(missing), f'{of} has', f'{of} have')} no embedding; extract the set that "
                "they belong to (stage 4):" + first_few(missing)
            )
        try:
            matrix = self._read([place for place in places if place is not None])
        except (OSError, ValueError, MemoryError, OverflowError) as error:
            raise RecipeError(f"{self.scp}: cannot be read ({error}); {mended(self.scp)}") from error
        refuse_vectors(
            self.scp, names, np.logical_not(np.isfinite(matrix).all(axis=1)), "hold values that are not finite"
        )
        return matrix

    def _read(self, places: list[str]) -> NDArray[np.float32]:
        """The vectors at ``places``, each ``ark:offset`` or whatever else Kaldi has of files."""
        arks, offsets = _split(places)
        others = arks.pop("", np.empty(0, np.int64)).tolist()
        matrix: NDArray[np.float32] | None = None
        for name, unsorted in arks.items():
            ark = place_of_ark(self.scp, name)
            self._verify(str(ark))
            rows = unsorted[np.argsort(offsets[unsorted], kind="stable")]
            with ark.open("rb", buffering=0) as handle:
                size = handle.seek(0, os.SEEK_END)
                if int(offsets[rows[-1]]) >= size:
                    raise ValueError(f"{ark}: a vector at byte {offsets[rows[-1]]}, but the file has {size:,} bytes")
                if matrix is None:
                    matrix = _matrix_for(handle, int(offsets[rows[0]]), len(places))
                if matrix is None:
                    others += rows.tolist()
                else:
                    others += _read_plain(handle, rows, offsets[rows], matrix)
        return _read_others(self.scp, places, others, matrix)

    def _verify(self, ark: str) -> None:
        """Compare an ark, once, with what the scp's checksum says of it; also refuse what is no file (a pipe waits)."""
        if ark in self._verified:
            return
        _refuse_no_file(ark, ark)
        expected = self._checksums.get(Path(ark).name)
        if expected is not None:
            refuse_changed(Path(ark), expected, checksum_path(self.scp), mended(self.scp))
        self._verified.add(ark)


def place_of_ark(scp: Path, ark: str) -> Path:
    """Where an ark lies that an scp names.

    As Kaldi's, our scp names it from the folder of run.sh. Where it is read from elsewhere, or in a copy, there is none
    of that name: then it is the one beside the scp, where extraction writes it.
    """
    named = Path(ark)
    beside = scp.parent / named.name
    return beside if not named.exists() and beside.is_file() else named


def refuse_vectors(source: Path | str, utterances: Sequence[str], is_bad: NDArray[np.bool_], complaint: str) -> None:
    """Refuse embeddings with which something is wrong.

    Args:
        source: where they come from, for the message.
        utterances: U names.
        is_bad: (U,) of which.
        complaint: what is wrong with them, for the message.

    Raises:
        RecipeError: there are some; the first few are named.
    """
    bad = [utterances[row] for row in np.flatnonzero(is_bad).tolist()]
    if bad:
        raise RecipeError(
            f"{source}: {len(bad)} of {len(utterances)} embeddings {complaint}; look at these recordings and at the "
            "model, then extract again (stage 4):" + first_few(bad)
        )


def _split(places: list[str]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Ark -> its rows, ``""`` for places that are not ``ark:offset``; and the offset of each row."""
    ark = places[0].rpartition(":")[0] if places else ""
    prefix = f"{ark}:"
    tails = [place[len(prefix) :] for place in places if place.startswith(prefix)]
    if ark and len(tails) == len(places) and "".join(tails).isdigit() and "" not in tails:  # one ark, as a rule
        return {ark: np.arange(len(places))}, np.array(list(map(int, tails)), np.int64)
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    offsets = np.zeros(len(places), np.int64)
    for row, place in enumerate(places):
        ark, _, position = place.rpartition(":")
        is_plain = ark != "" and position.isdigit()
        rows_of[ark if is_plain else ""].append(row)
        offsets[row] = int(position) if is_plain else 0
    return {name: np.array(rows) for name, rows in rows_of.items()}, offsets


def _matrix_for(handle: FileIO, offset: int, count: int) -> NDArray[np.float32] | None:
    """An empty matrix of ``count`` vectors like the one at ``offset``; None if that is no binary vector of floats.

    Raises:
        ValueError: the vector would go beyond the end of the file.
    """
    handle.seek(offset)
    header = handle.read(_HEADER_BYTES)
    if not header.startswith(_FLOAT_VECTOR.tobytes()) or len(header) < _HEADER_BYTES:
        return None
    dim = int.from_bytes(header[-4:], "little")
    if offset + _HEADER_BYTES + 4 * dim > handle.seek(0, 2):
        raise ValueError(
            f"{handle.name}: the vector at byte {offset} has {dim} values by its header, the file ends first"
        )
    return np.empty((count, dim), np.float32)


def _read_plain(
    handle: FileIO, rows: NDArray[np.int64], offsets: NDArray[np.int64], matrix: NDArray[np.float32]
) -> list[int]:
    """Fill ``rows`` of the matrix from rising ``offsets``; returns the rows that are no float vectors of its length.

    A window of the file at a time, into the same memory: memory that is fresh, or mapped, costs more than the reading.
    """
    num_bytes = matrix.itemsize * matrix.shape[1]
    expected = np.concatenate([_FLOAT_VECTOR, np.frombuffer(matrix.shape[1].to_bytes(4, "little"), np.uint8)])
    window = np.zeros(max(_WINDOW_BYTES, _HEADER_BYTES + num_bytes), np.uint8)
    bytes_of = matrix.view(np.uint8)
    others: list[int] = []
    first = 0
    while first < len(rows):
        end = int(np.searchsorted(offsets, offsets[first] + len(window) - _HEADER_BYTES - num_bytes, side="right"))
        inside = offsets[first:end] - offsets[first]
        handle.seek(int(offsets[first]))
        wanted = int(inside[-1]) + _HEADER_BYTES + num_bytes
        filled = handle.readinto(window.data[:wanted])
        is_plain = (window[inside[:, None] + np.arange(_HEADER_BYTES)] == expected).all(axis=1)
        is_plain &= inside + _HEADER_BYTES + num_bytes <= filled
        others += rows[first:end][~is_plain].tolist()
        taken, starts = rows[first:end][is_plain], inside[is_plain] + _HEADER_BYTES
        gaps = np.unique(np.diff(starts))
        if len(gaps) == 1:  # names of one length: the vectors stand at even distances
            even = as_strided(window[starts[0] :], (len(taken), num_bytes), (int(gaps[0]), 1), writeable=False)
            bytes_of[taken] = even
        else:
            for row, start in zip(taken.tolist(), starts.tolist(), strict=True):
                bytes_of[row] = window[start : start + num_bytes]
        first = end
    return others


def _read_others(
    scp: Path | str, places: list[str], rows: list[int], matrix: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Fill the remaining ``rows`` of ``matrix``, which is made if there is none yet."""
    for row in rows:
        vector = _read_place(places[row])
        if vector.ndim != 1:
            raise RecipeError(f"{scp}: found an embedding of shape {vector.shape}, expected vectors of one length")
        if matrix is None:
            matrix = np.empty((len(places), len(vector)), np.float32)
        _check_dim(scp, len(vector), matrix.shape[1])
        matrix[row] = vector
    if matrix is None:
        raise RecipeError(f"{scp}: no embedding was asked for")
    return matrix


def _refuse_no_file(ark: str, place: str) -> None:
    """Raises :class:`FileNotFoundError` that names ``place`` and says what lies where its ark should be."""
    if not Path(ark).is_file():
        raise FileNotFoundError(f"{place}: {found_at(ark)} (current directory {Path.cwd()})")


def _read_place(place: str) -> NDArray[np.generic]:
    """One vector of any kind that Kaldi writes: of floats or doubles, or in text; or a range of it.

    Read here because kaldiio would run what stands there as a command, unpickle what is marked as a pickle, and take
    the memory that a header asks for.

    Raises:
        OSError: the ark cannot be read.
        ValueError: it does not hold a vector of Kaldi's there.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise FileNotFoundError(f"{place}: no file and place in it (current directory {Path.cwd()})")
    _refuse_no_file(match["ark"], place)
    with Path(match["ark"]).open("rb") as handle:
        handle.seek(int(match["offset"] or 0))
        start = handle.read(_HEADER_BYTES)
        length = int.from_bytes(start[-4:], "little")
        if (kind := _BINARY_KINDS.get(start[:-4])) is not None:
            entry: NDArray[np.generic] = np.fromfile(handle, kind, min(length, _MOST_DIM))
            if len(entry) != length:
                raise ValueError(f"{place}: cut off, {len(entry)} of {length} values")
        elif start[:4] in _BINARY_MATRICES:
            columns = int.from_bytes(handle.read(5)[1:], "little")
            raise ValueError(
                f"{place}: found an embedding of shape ({length}, {columns}), expected vectors of one length"
            )
        elif start.lstrip().startswith(b"["):
            handle.seek(-len(start), os.SEEK_CUR)
            text = handle.readline(_MOST_TEXT_BYTES).strip()
            if text.count(b"[") != 1 or text.find(b"]") != len(text) - 1:
                raise ValueError(f"{place}: cut off, or a matrix, expected a vector `[ 1 2 3 ]` in a line")
            entry = np.array([as_number(each) for each in text[1:-1].split()], np.float64)
        else:
            raise ValueError(f"{place}: neither a binary entry of Kaldi's nor one in text")
    return entry if match["first"] is None else entry[int(match["first"]) : int(match["last"]) + 1]


def _check_dim(scp: Path | str, found: int, expected: int) -> None:
    if found != expected:
        raise RecipeError(
            f"{scp}: embeddings have lengths {expected} and {found}, expected one vector length throughout; extract "
            "all of them with one model (stage 4)"
        )


def write_vectors(directory: Path, stem: str, names: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Write ``<stem>.ark``, then ``<stem>.scp`` (float32, sorted by name), then the checksum of both.

    Both are written before either is replaced, so that a full disk leaves the older ones. An older scp is removed
    before the ark is replaced: an interruption leaves none, rather than one of another ark.

    Args:
        directory: to write into.
        stem: of the files' names, e.g. ``xvector``.
        names: U keys.
        vectors: (U, D).
    """
    import kaldiio

    ark, scp = directory / f"{stem}.ark", directory / f"{stem}.scp"
    order = sorted(range(len(names)), key=names.__getitem__)
    with checked_path(scp, [ark]) as table, atomic_path(ark) as temporary:
        offsets = temporary.with_suffix(".scp")
        try:
            kaldiio.save_ark(str(temporary), {names[row]: vectors[row] for row in order}, scp=str(offsets))
            rows = [fields_of(line.text, 2) for line in lines_of(read_text(offsets))]
        finally:
            offsets.unlink(missing_ok=True)
        # The ark was written under a temporary name; only the byte offset of each entry is taken from there.
        places = (f"{name} {ark}:{place.rpartition(':')[2]}\n" for name, place in rows)
        table.write_text("".join(places), encoding="utf-8")
        remove_checked(scp)  # which would name vectors of another ark than the one that comes now
