"""Whose files are these? A program replaces and removes only what it knows to be its own.

Every folder that a stage writes into has a small file ``.wespeaker_qm``: the names of the files that stages made there,
or began to make. It is written before they are, so a killed run goes on, and it stays when a done marker is deleted to
force a stage. A file of such a name that is not listed is somebody else's and is refused before anything is touched.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wespeaker_qm.utils.errors import RecipeError, counted, first_few
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.text import json_or_none, read_text

LEDGER = ".wespeaker_qm"
PLOT_MARK = "wespeaker-qm"
"""What a plot names as the program that drew it."""

_DEPTH = 4
"""Folders above a file, in which the ledger of its corpus or run is looked for: ``embeddings/<set>/xvector.ark``."""
_HEADER = "Made by wespeaker-qm, which may replace these:"
_LEDGER_REMEDY = "it lists the files that stages made there: put back a copy of it, or choose another folder"


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
    if not owned and _is_of_an_earlier_version(folder):
        owned = _names(folder, (path for path in folder.rglob("*") if path.is_file()))
    if not names <= _owned(folder):
        write_text(folder / LEDGER, "\n".join([_HEADER, *sorted(names | owned)]) + "\n")


def refuse_no_ledger(path: Path) -> None:
    """Refuse a file in the place of a ledger that is none, such as an empty or cut one.

    Raises:
        RecipeError: it is none.
    """
    header, _, names = read_text(path, _LEDGER_REMEDY).partition("\n")
    if header != _HEADER or not names.endswith("\n"):
        found = "another content" if header else "an empty file"
        raise RecipeError(
            f"{path}: found {found}, expected the names of files below {_HEADER!r}: damaged; {_LEDGER_REMEDY}"
        )


def refuse_foreign(folder: Path, paths: Iterable[Path], *, made_before: bool = False) -> None:
    """Only look, as :func:`claim` does first.

    Raises:
        RecipeError: something lies there that no stage made.
    """
    owned = _owned(folder)
    if made_before or (not owned and _is_of_an_earlier_version(folder)):
        return
    foreign = sorted(str(folder / name) for name in _names(folder, paths) - owned if _is_taken(folder / name))
    if foreign:
        raise RecipeError(
            f"{folder}: holds {counted(len(foreign), 'file', 'files')} under names of ours that wespeaker-qm has not "
            f"made, or not in this folder ({folder / LEDGER} does not list them); nothing has been "
            f"touched:{first_few(foreign)}\n"
            "Move them away, or choose another folder"
        )


def made_by_stages(path: Path) -> bool:
    """Whether a stage made a file, or began to: the ledger of a folder above lists it, or has the run's cache of it."""
    return any(
        _is_of_an_earlier_version(folder) if owned is None else bool(owned & _and_above(path, folder))
        for folder, owned in _ledgers(path)
    )


def is_of_stages(path: Path) -> bool:
    """Whether a path, of which there need be nothing, lies in a folder that stages write into."""
    return any(owned is not None or _is_of_an_earlier_version(folder) for folder, owned in _ledgers(path))


def take_folder(folder: Path, *, made_before: bool = False) -> None:
    """Say that a folder, and all that is below it, is a program's to write; it is made.

    Raises:
        RecipeError: it holds something, and no program took it before.
    """
    if not (made_before or (folder / LEDGER).is_file()) and _is_taken(folder):
        raise RecipeError(
            f"{folder}: holds files that wespeaker-qm has not made; nothing has been touched; choose another folder, "
            "or an empty one"
        )
    write_text(folder / LEDGER, f"{_HEADER}\n.\n")


def write_json(path: Path, content: dict[str, Any] | list[Any]) -> None:
    """Write a result under a name that the user chose: over nothing, or over an earlier result of the same kind.

    Raises:
        RecipeError: something else lies there.
    """
    if path.is_file() and not _is_alike(json_or_none(path), content):
        raise RecipeError(f"{path}: exists, and is no result of this program; choose another name, or move it away")
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def refuse_plots(paths: Iterable[Path]) -> None:
    """Refuse to draw over files that are no plots of ours.

    Raises:
        RecipeError: there is one.
    """
    for path in paths:
        if path.is_file() and PLOT_MARK.encode() not in path.read_bytes():
            raise RecipeError(f"{path}: exists, and is no figure of this program; choose another name, or move it away")


def _is_alike(earlier: Any, content: Any) -> bool:
    """Whether two results have the same entries; another version's may have more, or fewer."""
    if isinstance(earlier, list) and isinstance(content, list):
        return not earlier or not content or _is_alike(earlier[0], content[0])
    if isinstance(earlier, dict) and isinstance(content, dict):
        return bool(earlier) and (earlier.keys() <= content.keys() or content.keys() <= earlier.keys())
    return False


def _ledgers(path: Path) -> Iterator[tuple[Path, set[str] | None]]:
    """The folders above, up to that of a corpus or run, and what each ledger lists; None where there is none."""
    for folder in path.parents[:_DEPTH]:
        ledger = folder / LEDGER
        listed: set[str] | None = None
        if ledger.is_file():
            with contextlib.suppress(RecipeError):  # damaged, it lists nothing
                listed = set()
                listed = set(read_text(ledger).split("\n")[1:])
        yield folder, listed


def _and_above(path: Path, folder: Path) -> set[str]:
    """As a ledger of ``folder`` may list a file: by its name, that of the text a cache is of, or of a folder."""
    name = path.relative_to(folder)
    return {str(name), str(name).removesuffix(".npz"), *map(str, name.parents)}


def _names(folder: Path, paths: Iterable[Path]) -> set[str]:
    return {os.path.relpath(path, folder) for path in paths}


def _owned(folder: Path) -> set[str]:
    ledger = folder / LEDGER
    return set(read_text(ledger, _LEDGER_REMEDY).split("\n")[1:]) - {""} if ledger.is_file() else set()


def _is_taken(path: Path) -> bool:
    """Whether something lies there; an empty folder is nothing."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)


def _is_of_an_earlier_version(folder: Path) -> bool:
    """Whether a version that kept no ledger wrote this folder: stages left markers, a training its provenance."""
    if (folder / ".done").is_dir():
        return True
    provenance = json_or_none(folder / "provenance.json")
    return isinstance(provenance, dict) and "wespeaker_qm" in provenance
