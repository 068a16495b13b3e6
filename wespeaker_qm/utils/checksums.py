"""Checksums of the files that this project writes: ``<file>.crc32`` beside the file.

::

    exp/mini/resnet34/models/avg_model.pt
                            /avg_model.pt.crc32      9af3c2d1 26601210 avg_model.pt
    exp/mini/resnet34/embeddings/test/xvector.scp
                                     /xvector.scp.crc32   0c417e55 61890 xvector.scp
                                                          77aa0e19 1310720 xvector.ark

A line has the CRC-32 (that of zip, gzip and PNG), the size in bytes and the name. The first line names the file itself,
others what it belongs to and means nothing without. Every changed bit is seen, and so is a cut file or one of another
run; a gigabyte takes less than a second. It is no protection against somebody who wants to deceive.

The formats stay those that WeSpeaker, Kaldi, torch and numpy read. A file that comes from elsewhere has no checksum and
is taken as it is. A file's checksum is removed before the file is replaced and written after it, so that an interrupted
program leaves a file without a checksum, never with a wrong one.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wespeaker_qm.utils.errors import RecipeError, refuse_no_file
from wespeaker_qm.utils.files import atomic_path, write_text
from wespeaker_qm.utils.text import parse_json, read_text
from wespeaker_qm.utils.trouble import writing

_LINE = re.compile(r"(?P<crc32>[0-9a-f]{8}) (?P<num_bytes>[0-9]{1,20}) (?P<name>[^/\n]+)")
_BLOCK_BYTES = 1 << 20


class ChecksumError(RecipeError):
    """A file is not what was written."""


class Checksum(NamedTuple):
    """What a file's content is known by."""

    crc32: int
    num_bytes: int

    def __str__(self) -> str:
        return f"CRC-32 {self.crc32:08x} of {self.num_bytes} bytes"


def checksum_of(path: Path | str, limit: int | None = None) -> Checksum:
    """Read a file, or its first ``limit`` bytes, a block at a time.

    Raises:
        RecipeError: it is a pipe or a device.
    """
    refuse_no_file(path)
    checksum = Checksum(0, 0)
    with Path(path).open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES if limit is None else min(_BLOCK_BYTES, limit - checksum.num_bytes)):
            checksum = _continued(checksum, block)
    return checksum


def _continued(checksum: Checksum, block: bytes) -> Checksum:
    return Checksum(zlib.crc32(block, checksum.crc32), checksum.num_bytes + len(block))


def checksum_path(path: Path | str) -> Path:
    """Where the checksum of ``path`` lies."""
    return Path(f"{path}.crc32")


@contextlib.contextmanager
def checked_path(path: Path | str, belonging: Iterable[Path] = ()) -> Iterator[Path]:
    """As :func:`wespeaker_qm.utils.files.atomic_path`, and write the checksum.

    Args:
        path: the file to be written.
        belonging: files, complete already, that it refers to and that must not be exchanged for others.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        yield temporary
        checksums = {path.name: checksum_of(temporary)} | {other.name: checksum_of(other) for other in belonging}
        checksum_path(path).unlink(missing_ok=True)
    _write(path, checksums)


def write_checked_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically, and its checksum."""
    with checked_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_checked_text(path: Path | str, remedy: str) -> str:
    """Read a text (UTF-8) that must be what was written; arguments and errors as :func:`verify`.

    Raises:
        ChecksumError: also where a file without a checksum is no UTF-8.
    """
    verify(path, remedy)
    with _as_checksum_error():
        return read_text(path, f"damaged, or another kind of file; {remedy}")


def read_checked_json(path: Path | str, remedy: str) -> Any:
    """Read a JSON value that must be what was written; arguments and errors as :func:`verify`.

    Raises:
        ChecksumError: also where a file without a checksum is no JSON.
    """
    text = read_checked_text(path, remedy)
    with _as_checksum_error():
        return parse_json(text, path, f"damaged, or another kind of file; {remedy}")


@contextlib.contextmanager
def _as_checksum_error() -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise ChecksumError(str(error)) from None


class GrowingText:
    """A text to which lines are added while it can be read; the checksum covers those that were added.

    A program that is interrupted may have added more, so :func:`verify` is told that the file ``grows``.

    Args:
        path: the file.
        beginning: what it holds at first.
    """

    def __init__(self, path: Path, beginning: str) -> None:
        write_checked_text(path, beginning)
        self._path = path
        self._checksum = checksum_of(path)
        self._file = path.open("ab")

    def add(self, text: str) -> None:
        """Append ``text`` (UTF-8), on the disk before its checksum."""
        data = text.encode()
        with writing(self._path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._checksum = _continued(self._checksum, data)
        _write(self._path, {self._path.name: self._checksum})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def remove_checked(path: Path | str) -> None:
    """Remove a file and its checksum, where they are there."""
    Path(path).unlink(missing_ok=True)
    checksum_path(path).unlink(missing_ok=True)


def verify(path: Path | str, remedy: str, *, grows: bool = False) -> dict[str, Checksum]:
    """Compare a file, which exists, with its checksum.

    Args:
        path: the file.
        remedy: how it is made again, for the message: ``"extract the embeddings again (stage 4)"``.
        grows: the file may be longer than its checksum says (:class:`GrowingText`).

    Returns:
        Checksums by file name: of this one, and of those that it refers to, for :func:`compare`. Empty where there is
        no checksum, because the file comes from elsewhere.

    Raises:
        ChecksumError: they differ, or the checksum cannot be read.
    """
    path = Path(path)
    recorded = _read(path)
    while recorded:
        try:
            refuse_changed(path, recorded[path.name], checksum_path(path), remedy, grows=grows)
        except ChecksumError:
            again = _read(path)
            if again == recorded:
                raise
            recorded = again  # the file was replaced meanwhile
        else:
            break
    return recorded


def refuse_changed(path: Path, expected: Checksum, source: Path, remedy: str, *, grows: bool = False) -> None:
    """Refuse a file whose content is not what was written.

    Args:
        path: of the file.
        expected: what was written.
        source: the file that says so, for the message.
        remedy: what to do, for the message.
        grows: whether only the beginning of the file, as long as what was written, is compared.

    Raises:
        ChecksumError: they differ.
    """
    found = checksum_of(path, expected.num_bytes if grows else None)
    if found != expected:
        raise ChecksumError(
            f"{path}: {found}, expected {expected} as written: damaged, cut off, or another file in its place; "
            f"{remedy}. If you have put this file here on purpose, delete {source}"
        )


def _write(path: Path, checksums: dict[str, Checksum]) -> None:
    lines = (f"{value.crc32:08x} {value.num_bytes} {name}\n" for name, value in checksums.items())
    write_text(checksum_path(path), "".join(lines))


def _read(path: Path) -> dict[str, Checksum]:
    source = checksum_path(path)
    if not os.path.lexists(source):
        return {}
    try:
        lines = read_text(source).removesuffix("\n").split("\n")
    except RecipeError:
        lines = [""]
    matches = [_LINE.fullmatch(line) for line in lines]
    recorded = {
        match["name"]: Checksum(int(match["crc32"], 16), int(match["num_bytes"]))
        for match in matches
        if match is not None
    }
    if None in matches or path.name not in recorded:
        raise ChecksumError(
            f"{source}: damaged, expected a line `<crc32> <bytes> {path.name}`; delete it if you know {path.name} to "
            "be good, else make that file again"
        )
    return recorded
