"""Whose files are these? A program replaces and removes only what it knows to be its own.

Every folder that a stage writes into has a small file ``.wespeaker_qm``: the names of the files that stages made there,
or began to make. It is written before they are, so a killed run goes on, and it stays when a done marker is deleted to
force a stage. A file of such a name that is not listed is somebody else's and is refused before anything is touched.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError, first_few
from wespeaker_qm.utils.files import write_text

LEDGER = ".wespeaker_qm"
_HEADER = "Made by wespeaker-qm, which may replace these:"


def claim(folder: Path, paths: Iterable[Path], *, made_before: bool = False) -> None:
    """Say that ``paths`` below ``folder`` are about to be written.

    Args:
        folder: of a run or corpus; its ledger names paths relative to it.
        paths: files, and folders of which every file is replaced.
        made_before: it is known otherwise that an earlier run made what lies there.

    Raises:
        RecipeError: something lies there that no stage made; nothing has been touched.
    """
    refuse_foreign(folder, paths := list(paths), made_before=made_before)
    names, owned = _names(folder, paths), _owned(folder)
    if not names <= owned:
        write_text(folder / LEDGER, "\n".join([_HEADER, *sorted(names | owned)]) + "\n")


def refuse_foreign(folder: Path, paths: Iterable[Path], *, made_before: bool = False) -> None:
    """Only look, as :func:`claim` does first.

    Raises:
        RecipeError: something lies there that no stage made.
    """
    owned = _owned(folder)
    if made_before or (not owned and _was_trained_in(folder)):
        return
    foreign = sorted(str(folder / name) for name in _names(folder, paths) - owned if _is_taken(folder / name))
    if foreign:
        raise RecipeError(
            f"{folder}: holds {len(foreign)} file(s) under names of ours that wespeaker-qm has not made, or not in "
            f"this folder; nothing has been touched:{first_few(foreign)}\nMove them away, or choose another folder"
        )


def _names(folder: Path, paths: Iterable[Path]) -> set[str]:
    return {os.path.relpath(path, folder) for path in paths}


def _owned(folder: Path) -> set[str]:
    ledger = folder / LEDGER
    return set(ledger.read_text(encoding="utf-8").splitlines()[1:]) if ledger.is_file() else set()


def _is_taken(path: Path) -> bool:
    """Whether something lies there; an empty folder is nothing."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)


def _was_trained_in(folder: Path) -> bool:
    """Whether a training of a version that kept no ledger wrote this folder."""
    try:
        return "wespeaker_qm" in json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
