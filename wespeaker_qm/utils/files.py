"""Files that are either whole or absent."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends without an error.

    The data is flushed to disk before the rename, so that neither ``kill -9`` nor a power cut leaves half a file
    under the final name. Parent folders are made. On an error the temporary file is removed and ``path`` is untouched.

    Raises:
        RecipeError: ``path`` is a link, a folder or a device, in whose place the rename would put a file.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a symbolic link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        raise RecipeError(f"{path}: is {kind}, expected a file or nothing; choose another name, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last because writers such as numpy, soundfile and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
