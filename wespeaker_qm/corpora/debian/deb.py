"""The audio files in a ``.deb``, unpacked without root."""

import contextlib
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from wespeaker_qm.corpora.debian.packages import REMEDY
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.files import sha256_of, temporary_path, write_text
from wespeaker_qm.utils.trouble import ended

AUDIO_SUFFIXES = frozenset({".wav", ".ogg", ".opus", ".gsm", ".au"})
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
# TypeError: what Python's tarfile raises where the header of gzip is cut.
_DAMAGED = (
    tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, TypeError, RecursionError,
)  # fmt: skip
_MAX_INFLATION = 100
"""Times that a package may grow when it is unpacked; recordings grow by a tenth."""


def unpack_audio(deb: Path, folder: Path) -> None:
    """Unpack the audio files of ``deb`` below ``folder``, once: a second call with the same package returns at once.

    Raises:
        RecipeError: not a Debian package, or damaged.
    """
    marker = folder / ".unpacked"
    if not deb.is_file():
        raise RecipeError(f"{deb}: {found_at(deb)}; run again, which fetches the package")
    digest = sha256_of(deb)
    if marker.is_file() and marker.read_bytes().strip() == digest.encode():
        return
    begun = folder / ".unpacking"
    if folder.is_dir() and any(folder.iterdir()) and not (marker.is_file() or begun.is_file()):
        raise RecipeError(f"{folder}: holds files of another origin than {deb.name}; move it away, or remove it")
    write_text(begun, digest + "\n")
    marker.unlink(missing_ok=True)
    left = _MAX_INFLATION * deb.stat().st_size
    try:
        with _open_data_tar(deb) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.suffix.lower() not in AUDIO_SUFFIXES or ".." in name.parts:
                    continue
                left -= member.size
                if left < 0:
                    raise OSError(
                        f"more than {_MAX_INFLATION} times its size, expected recordings, which hardly shrink"
                    )
                target = folder.joinpath(*[part for part in name.parts if part != "/"])
                target.parent.mkdir(parents=True, exist_ok=True)
                # Whole or absent: another process may unpack the same package, and this one read it already.
                temporary = temporary_path(target)
                with cast(IO[bytes], archive.extractfile(member)) as content, temporary.open("wb") as output:
                    shutil.copyfileobj(content, output)
                temporary.replace(target)
    except _DAMAGED as error:
        raise RecipeError(f"{deb}: cannot be unpacked ({error}); delete the file and run again") from error
    write_text(marker, digest + "\n")
    begun.unlink()


@contextlib.contextmanager
def _open_data_tar(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package, as a tar archive to be read from front to end."""
    if shutil.which("dpkg-deb") is None:
        with deb.open("rb") as handle:
            _seek_data_tar(deb, handle)
            with tarfile.open(fileobj=handle, mode="r|*") as archive:
                yield archive
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
            process.communicate()  # the padding behind the archive
            if process.returncode:
                raise OSError(f"dpkg-deb {ended(process.returncode)}")
        finally:
            process.kill()


def _seek_data_tar(deb: Path, handle: BinaryIO) -> None:
    """Move to the start of ``data.tar.*``: a .deb is an ``ar`` archive, each member behind 60 bytes of header."""
    if handle.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise RecipeError(f"{deb}: not a Debian package; delete the file and run again")
    while header := handle.read(_AR_HEADER_BYTES):
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if not size.isdigit():
            break
        if name == "data.tar.zst":
            raise RecipeError(f"{deb}: compressed with zstd, which needs dpkg-deb (not found) to unpack. {REMEDY}")
        if name.startswith("data.tar"):
            return
        handle.seek(int(size) + int(size) % 2, 1)
    raise RecipeError(f"{deb}: holds no data.tar; delete the file and run again")
