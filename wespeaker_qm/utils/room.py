"""Is there room on the disks for what this project is about to write?

Needs no package but Python's own: path.sh asks before there is any, by ``python -m wespeaker_qm.utils.room EXTRA``.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT_GIB = {"train": 6, "test": 7}
"""Extra -> what ``.venv`` takes (``du -sm``; 6.5 with ``test``). CUDA's libraries and PyTorch are four fifths of it."""

DOWNLOADS_GIB = 3
"""What pip holds in ``TMPDIR`` while it fills ``.venv``: the files that it downloads."""

RUN_GIB = 2
"""What ``./run.sh`` takes on ``egs/mini``: downloads 0.5, data 0.7, results 0.1, and some air."""

_GIB = 2**30


class Need(NamedTuple):
    """What is to be written into a folder, which need not exist yet."""

    folder: Path
    purpose: str
    gib: float


def environment_needs(folder: Path, extra: str) -> list[Need]:
    """What it takes to make ``.venv`` in a folder, or to complete one that lacks packages.

    Args:
        folder: a checkout.
        extra: of :data:`ENVIRONMENT_GIB`.
    """
    environment, whole = folder / ".venv", ENVIRONMENT_GIB[extra]
    lacking = max(0.0, whole - _num_bytes(environment) / _GIB)
    return [
        Need(environment, f"the packages of [{extra}]", lacking),
        Need(_temporary(), "what pip downloads meanwhile (TMPDIR)", DOWNLOADS_GIB * lacking / whole),
    ]


def shortages(needs: Sequence[Need]) -> list[str]:
    """Disks with less room than all that is to be written there takes: folders, GiB found, GiB expected."""
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(os.stat(_existing(need.folder)).st_dev, []).append(need)
    lines = []
    for own in disks.values():
        free = shutil.disk_usage(_existing(own[0].folder)).free / _GIB
        if free < sum(need.gib for need in own):
            folders = " and ".join(dict.fromkeys(str(need.folder) for need in own))
            parts = " and ".join(f"{need.gib:.1f} for {need.purpose}" for need in own)
            lines.append(f"{folders}: found {free:.1f} GiB free on this disk, expected {parts}")
    return lines


def main(extra: str) -> int:
    """Tell of each disk that is too small for ``.venv`` with an extra here; 1 if there is one, else 0."""
    environment, downloads = environment_needs(Path.cwd(), extra)
    lines = shortages([environment, downloads])
    if not lines:
        return 0
    sys.stderr.writelines(f"path.sh: {line}\n" for line in lines)
    elsewhere = "let pip unpack on another disk, TMPDIR=/path/to/folder; or "
    sys.stderr.write(
        "path.sh: nothing was installed. Free some space; or "
        f"{elsewhere if any(downloads.purpose in line for line in lines) else ''}use an environment of your own, "
        "PYTHON=/path/to/python (with PyTorch's build for CPUs it is much smaller). Then run the same command again\n"
    )
    return 1


def _temporary() -> Path:
    """Where pip unpacks: the first of TMPDIR, /tmp, ... that can be written; TMPDIR, or /tmp, where none can."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR") or "/tmp")


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def _num_bytes(folder: Path) -> int:
    """What a folder takes on its disk; 0 where there is none."""
    places = ((place, names) for place, _, names in os.walk(folder))
    return sum(os.lstat(os.path.join(place, name)).st_blocks * 512 for place, names in places for name in names)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
