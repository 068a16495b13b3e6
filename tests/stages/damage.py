"""What happens to files between a program that wrote them and one that reads them."""

import os
from collections.abc import Callable
from pathlib import Path

from wespeaker_qm.utils.layout import DataFolder


def tar_of(data: DataFolder) -> Path:
    """The second tar of the training set."""
    return data.set("train").shards / "shards_000001.tar"


def silently(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change a file as a failing disk does: its time stays."""
    content, times = bytearray(path.read_bytes()), path.stat()
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flip(place: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        silently(path, lambda content: content.__setitem__(place, content[place] ^ 1))

    return damage


def replaced(old: str, new: str, count: int = 1) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return damage


def without_first_line(path: Path) -> None:
    path.write_text(path.read_text().partition("\n")[2])


def other_duration(path: Path) -> None:
    key, seconds = path.read_text().splitlines()[1].split()
    replaced(f"{key} {seconds}\n", f"{key} {float(seconds) + 0.06:g}\n")(path)


def emptied(path: Path) -> None:
    assert path.stat().st_size
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
