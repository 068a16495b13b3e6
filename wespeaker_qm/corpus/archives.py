"""Recordings inside archives, read where they lie: nothing is unpacked.

In ``wav.scp`` a locator stands in the place of a path::

    zip:123:4567:8:90abcdef:vox/vox2_dev_aac.zip!/dev/aac/id00012/21Uxsk56VDQ/00001.m4a
    tar:1536:64044:data/voxceleb/musan.tar!/musan/noise/free-sound/noise-free-sound-0000.wav
    lmdb:data/musan/lmdb!/noise/free-sound/noise-free-sound-0000.wav

that is, for a zip archive the offset of the member, its compressed size in bytes, the method (0 stored, 8 deflated)
and the CRC-32; for a tar archive offset and size. A million members so cost no worker a table of contents.

A zip archive may lie in parts: where ``vox2_dev_aac.zip`` does not exist, ``vox2_dev_aac_partaa``, ``..._partab`` and
so on are read as if they had been joined.
"""

import contextlib
import functools
import io
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpus.lmdb_pages import refuse_damaged_pages
from wespeaker_qm.corpus.segments import split_segment
from wespeaker_qm.utils.done import file_stamp
from wespeaker_qm.utils.errors import RecipeError, counted, first_few, printable, refuse_no_file, shown, shown_line
from wespeaker_qm.utils.text import decode

_LOCATOR = re.compile(
    r"zip:(?P<offset>\d+):(?P<size>\d+):(?P<method>0|8):(?P<crc>[0-9a-f]{8}):(?P<zip>.+?)!/(?P<member>.+)"
    r"|tar:(?P<tar_offset>\d+):(?P<tar_size>\d+):(?P<tar>.+?)!/.+"
    r"|lmdb:(?P<lmdb>.+?)!/(?P<key>.+)"
)
# The local header of a zip member: signature, ..., lengths of name and extra field at bytes 26 and 28.
_LOCAL_HEADER_BYTES = 30
# Of a member that is deflated: two hours at 48 kHz. A kilobyte that says a megabyte of zeros is not stopped otherwise.
_MAX_INFLATED_BYTES = 1 << 30
_LOCAL_MAGIC = b"PK\x03\x04"


class Member(NamedTuple):
    """A recording in an archive: the name it has there, and its locator."""

    name: str
    locator: str


def is_locator(path: str) -> bool:
    """Whether a ``wav.scp`` entry is a locator rather than a path."""
    return path.startswith(("zip:", "tar:", "lmdb:"))


def archive_files(archive: Path) -> list[Path]:
    """The file ``archive``, or its parts in order; empty where there is neither.

    Raises:
        RecipeError: a part is missing between the first and the last.
    """
    if archive.is_file():
        return [archive]
    parts = sorted(part for part in archive.parent.glob(f"{archive.stem}_part[a-z][a-z]") if part.is_file())
    for number, part in enumerate(parts):
        expected = f"{archive.stem}_part{chr(97 + number // 26)}{chr(97 + number % 26)}"
        if part.name != expected:
            raise RecipeError(f"{archive.parent}: found {part.name} but no {expected}; fetch the missing part")
    return parts


def list_zip(archive: Path) -> Iterator[Member]:
    """Members of a zip archive, whole or in parts, in the order of its table of contents.

    Raises:
        RecipeError: not there, damaged, truncated (a part is missing at the end), or with members that are encrypted
            or compressed otherwise than by deflation, have one name, or none that can be written into a list.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_listing(archive, "zip", ": truncated, or its last part is missing"))
        contents = stack.enter_context(zipfile.ZipFile(stack.enter_context(JoinedFile(_existing(archive)))))
        members = [entry for entry in contents.infolist() if not entry.is_dir()]
    for entry in members:
        if entry.compress_type not in (0, 8) or entry.flag_bits & 1:
            raise RecipeError(
                f"{archive}: {entry.filename} is encrypted or compressed with method {entry.compress_type}, expected "
                "0 (stored) or 8 (deflated); unpack the archive and name the tree instead"
            )
    _refuse_names(archive, [entry.filename for entry in members])
    for entry in members:
        place = f"{entry.header_offset}:{entry.compress_size}:{entry.compress_type}:{entry.CRC:08x}"
        yield Member(entry.filename, f"zip:{place}:{archive}!/{entry.filename}")


def list_tar(archive: Path) -> Iterator[Member]:
    """Files of an uncompressed tar archive, in its order; links and whatever else is no file are passed over.

    Raises:
        RecipeError: not there, or damaged, or with members that are sparse, have one name, or none that can be written
            into a list.
    """
    with _listing(archive, "tar"), tarfile.open(_existing(archive)[0], "r:") as contents:
        members = [entry for entry in contents if entry.isreg()]
    for entry in members:
        if entry.issparse():
            raise RecipeError(
                f"{archive}: {entry.name} is sparse (its zeros were left out), expected files as they are; unpack the "
                "archive and name the tree instead"
            )
    _refuse_names(archive, [entry.name for entry in members])
    for entry in members:
        yield Member(entry.name, f"tar:{entry.offset_data}:{entry.size}:{archive}!/{entry.name}")


def list_lmdb(folder: Path) -> Iterator[Member]:
    """Entries of an LMDB in WeSpeaker's layout (key -> bytes of an audio file), sorted by key.

    Raises:
        RecipeError: not there, or no LMDB.
    """
    import lmdb

    try:
        with _open_lmdb(str(folder)).begin() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
    except lmdb.Error as error:
        raise RecipeError(f"{folder}: a damaged LMDB ({error}); copy it again") from error
    names = [decode(key, folder, "write the keys of the LMDB in UTF-8") for key in keys]
    _refuse_names(folder, names)
    for name in names:
        if name != "__keys__":  # WeSpeaker's pickled list of the keys
            yield Member(name, f"lmdb:{folder}!/{name}")


def open_recording(path: str) -> str | BinaryIO:
    """What :func:`wespeaker_qm.audio.io.read_audio` reads: a path as it is, or a locator's bytes.

    Raises:
        AudioError: the archive does not hold what the locator says; the message is the reason alone.
    """
    return io.BytesIO(read_member(path)) if is_locator(path) else path


def read_member(locator: str) -> bytes:
    """The content of the archived file that ``locator`` names.

    Raises:
        AudioError: as :func:`open_recording`; whatever an archive's reader raises ends as this.
    """
    try:
        return _read_member(locator)
    except AudioError:
        raise
    except RecipeError as error:
        raise AudioError(str(error)) from error
    except Exception as error:
        raise AudioError(f"cannot be read from its archive ({type(error).__name__}: {error})") from error


def _read_member(locator: str) -> bytes:
    match = _LOCATOR.fullmatch(locator)
    if match is None:
        raise AudioError(f"{shown_line(locator)}: not a locator of a zip, tar or LMDB entry; prepare the data again")
    if match["zip"] is not None:
        return _read_zip_member(
            match["zip"], int(match["offset"]), int(match["size"]), match["method"] == "8", int(match["crc"], 16)
        )
    if match["tar"] is not None:
        return _read_exactly(_open_joined(match["tar"]), int(match["tar_offset"]), int(match["tar_size"]))
    with _open_lmdb(match["lmdb"]).begin() as transaction:
        content = transaction.get(match["key"].encode())
    if content is None:
        raise AudioError(f"the LMDB {match['lmdb']} has no such key")
    return bytes(content)


def recording_stamps(paths: Iterable[str]) -> Iterator[str]:
    """Stamps of recordings for done markers: of the file, or the locator with the stamp of its archive."""
    archives: dict[str, str] = {}  # a million members, but few archives
    for path in paths:
        recording, span = split_segment(path)
        match = _LOCATOR.fullmatch(recording)
        if match is None:
            yield file_stamp(path) if span is None else f"{path} {file_stamp(recording)}"
            continue
        archive = match["zip"] or match["tar"] or match["lmdb"]
        if archive not in archives:
            archives[archive] = _archive_stamp(Path(archive))
        yield f"{path} {archives[archive]}"


class JoinedFile(io.RawIOBase):
    """Files read as one, as if they had been joined; seekable and read-only."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        self._sizes = [os.fstat(file).st_size for file in self._files]
        self._at = 0

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())
        super().close()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position in the joined file."""
        return self._at

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the joined file."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: sum(self._sizes)}[whence]
        self._at = max(0, origin + position)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the current position; returns the number of bytes."""
        data = self.pread(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def pread(self, num_bytes: int, offset: int) -> bytes:
        """Up to ``num_bytes`` from ``offset``, across the borders of parts; moves no position."""
        blocks = []
        for file, size in zip(self._files, self._sizes, strict=True):
            if num_bytes > 0 and offset < size:
                block = os.pread(file, min(num_bytes, size - offset), offset)
                blocks.append(block)
                num_bytes -= len(block)
                offset += len(block)
            offset -= size
        return b"".join(blocks)


def _existing(archive: Path) -> list[Path]:
    files = archive_files(archive)
    if not files:
        raise RecipeError(f"{archive}: no such archive, nor parts {archive.stem}_partaa, ...; fetch it again")
    return files


def _refuse_names(archive: Path, names: Sequence[str]) -> None:
    """Refuse members of which two have one name, so that one would hide the other, and names that no list can hold.

    Raises:
        RecipeError: there are some; the first few are named.
    """
    twice = [shown(name) for name, count in Counter(names).items() if count > 1]
    unseen = [shown(name) for name in names if printable(name) != name or set(name) & {"\n", "\t"}]
    odd = "characters that cannot be seen"
    for found, one, several in (
        (twice, "name of a member stands twice", "names of members stand twice"),
        (unseen, f"name of a member holds {odd}", f"names of members hold {odd}"),
    ):
        if found:
            raise RecipeError(
                f"{archive}: {counted(len(found), one, several)}; unpack the archive, see what they are, and name "
                f"the tree instead:{first_few(found)}"
            )


@contextlib.contextmanager
def _listing(archive: Path, kind: str, likely: str = "") -> Iterator[None]:
    """Whatever is raised at an archive's table of contents (by zipfile also UnicodeDecodeError, IndexError, ...)."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise RecipeError(f"{archive}: not a complete {kind} archive ({reason}){likely}; fetch it again") from error


@functools.lru_cache(maxsize=16)
def _open_joined(archive: str) -> JoinedFile:
    return JoinedFile(_existing(Path(archive)))


@functools.lru_cache(maxsize=4)
def _open_lmdb(folder: str) -> Any:
    import lmdb

    data = Path(folder, "data.mdb")
    refuse_no_file(data)
    if data.is_file():
        refuse_damaged_pages(data)
    try:
        database = lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise RecipeError(f"{folder}: not an LMDB ({error}); expected a folder with data.mdb") from error
    return database


def _archive_stamp(archive: Path) -> str:
    files = [archive / "data.mdb"] if archive.is_dir() else archive_files(archive) or [archive]
    return " ".join(file_stamp(file) for file in files)


def _read_zip_member(archive: str, offset: int, size: int, is_deflated: bool, crc: int) -> bytes:
    file = _open_joined(archive)
    header = _read_exactly(file, offset, _LOCAL_HEADER_BYTES)
    if header[:4] != _LOCAL_MAGIC:
        raise AudioError(f"{archive}: no zip member at byte {offset}: the archive is damaged or has been replaced")
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    content = _read_exactly(file, offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes, size)
    if is_deflated:
        inflation = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            content = inflation.decompress(content, _MAX_INFLATED_BYTES)
        except zlib.error as error:
            raise AudioError(f"damaged in the archive ({error})") from error
        if not inflation.eof:
            found = f"more than {_MAX_INFLATED_BYTES} bytes" if inflation.unconsumed_tail else "cut off"
            raise AudioError(f"{found} when inflated from the archive; unpack the archive and name its files")
    if zlib.crc32(content) != crc:
        raise AudioError(f"damaged in the archive (CRC {zlib.crc32(content):08x}, expected {crc:08x})")
    return content


def _read_exactly(file: JoinedFile, offset: int, num_bytes: int) -> bytes:
    data = file.pread(num_bytes, offset)
    if len(data) != num_bytes:
        raise AudioError(f"the archive ends {num_bytes - len(data)} bytes too early: truncated")
    return data
