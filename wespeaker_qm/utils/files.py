"""Files that are either whole or absent.

A file is written under a temporary name beside it, ``.<stem>.<machine>-<process>-<random>.tmp<suffix>``, which no other
writer chooses, not even one that has the same number in another container. What a killed one leaves is known by it.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.trouble import writing

_TEMPORARY = re.compile(
    r"\.(.*\.(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]{1,9})-[0-9a-f]{8}|shards_[0-9]{6,}\.[0-9]+)\.tmp(\.[^.]*)?",
    re.DOTALL,
)
"""Also those of shards in earlier versions, which had the number of the process alone."""
_MAX_STEM = 40
"""A file name has 255 bytes at most, and a character up to four."""


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends without an error.

    The data is flushed to disk before the rename, so that neither ``kill -9`` nor a power cut leaves half a file
    under the final name. Parent folders are made. On an error the temporary file is removed and ``path`` is untouched.
    What killed processes of this machine left in the folder is removed when a process first writes there.

    Raises:
        RecipeError: ``path`` is a link, a folder or a device, in whose place the rename would put a file.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        raise RecipeError(f"{path}: is {kind}, expected a file or nothing; choose another name, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers_once(path.parent.absolute())
    temporary = temporary_path(path)
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``, which is no name of anything, and remove it in the end.

    Those that killed processes of this machine left there are removed, too.
    """
    remove_leftovers(path.parent, is_alone=False)
    temporary = temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary)


def remove_leftovers(folder: Path, *, is_alone: bool) -> None:
    """Remove the temporary files and folders in ``folder`` (not below it) whose writers were killed.

    Args:
        folder: there may be none.
        is_alone: a lock says that no other machine or container writes into it. Without one, only files of processes
            of this machine are known to be nobody's.
    """
    for entry in os.scandir(folder) if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or entry.is_symlink():
            continue
        is_here = match["machine"] == _machine()
        is_dead = not _is_running(int(match["process"])) if is_here else is_alone
        if is_dead and entry.is_dir():
            shutil.rmtree(entry.path, ignore_errors=True)
        elif is_dead:
            with contextlib.suppress(OSError):  # of another user, or another process has just removed it
                Path(entry.path).unlink()


@functools.cache
def _remove_leftovers_once(folder: Path) -> None:
    """Once for a process: a folder may have a hundred thousand files, each of which is written through here."""
    remove_leftovers(folder, is_alone=False)


def scratch_folder(name: str) -> contextlib.AbstractContextManager[Path]:
    """As :func:`temporary_folder`, where the system keeps such folders (``TMPDIR``)."""
    return temporary_folder(Path(tempfile.gettempdir(), name))


def temporary_path(path: Path) -> Path:
    """A new name beside ``path``, which :func:`remove_leftovers` knows when its process is dead."""
    # The suffix stays last because writers such as numpy, soundfile and matplotlib choose the format by it.
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem[:_MAX_STEM]}.{owner}.tmp{path.suffix}")


@functools.cache
def _machine() -> str:
    """Within what the number of a process means one process: this host since it was started, and this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        state = status.rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # another system, or it has just ended
        return True
    return state not in {"Z", "X"}  # killed, but its parent has not asked yet how it ended


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically.

    Raises:
        RecipeError: it holds the name of a file that is not UTF-8, or as :func:`atomic_path`.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        raise RecipeError(
            f"{path}: cannot hold {shown(line)}, a name that is not UTF-8; rename the file or folder"
        ) from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive, maybe a damaged one."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of the end of one that is in parts
        return True


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
