"""How a stage begins and ends: skipped when done, alone in its folder, never over files that are not its own."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.files import remove_leftovers
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.lock import lock_for_reading, lock_for_writing, unlock
from wespeaker_qm.utils.ownership import claim, refuse_foreign

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def stage(name: str, marker: DoneMarker, *, others: Iterable[Path] = (), task: str = "") -> Iterator[bool]:
    """The work of a stage: yields whether there is something to do, and writes the marker behind it::

        with stage("score", marker) as is_due:
            if not is_due:
                return
            ...

    If there is something to do, the folder belongs to this process until the end of the block. The marker's outputs are
    claimed and the marker is removed before anything is overwritten; an error in the block leaves no marker.

    Args:
        name: of the stage, for messages.
        marker: of the stage.
        others: what else it writes or removes: files, or folders of which it replaces every file.
        task: what it makes, in words that another process that makes just the same has, too. That one is then waited
            for; without a task a stage refuses to run beside any other.

    Raises:
        RecipeError: another process is at work in the folder, or files lie there that no stage made.
    """
    changes = marker.changes()
    if changes:
        if marker.path.is_file():
            logger.info("stage %s: done again, because %s", name, "; ".join(changes[:5]) + " ..." * (len(changes) > 5))
        with alone(_folder(marker), [*marker.outputs, *others], made_before=marker.path.is_file, task=task):
            if not marker.is_current():  # it may be by now
                marker.clear()
                yield True
                marker.write()
                return
    logger.info("stage %s: nothing changed since the last run, skipped (delete %s to force)", name, marker.path)
    yield False


@contextlib.contextmanager
def alone(folder: Path, written: Iterable[Path], *, made_before: Callable[[], bool], task: str = "") -> Iterator[None]:
    """Be the only process that writes into ``folder``, and say that the files ``written`` are about to be its own.

    Args:
        folder: of a run or corpus; it is made.
        written: files, and folders of which every file is replaced.
        made_before: tells whether it is known otherwise that an earlier run made what lies there.
        task: as :func:`stage`.

    Raises:
        RecipeError: another process is at work there, or files lie there that no stage made.
    """
    written = list(written)
    refuse_foreign(folder, written, made_before=made_before())
    is_alone = lock_for_writing(folder, task)
    try:
        claim(folder, written, made_before=made_before())
        for place in _places(folder, written):
            remove_leftovers(place, is_alone=is_alone)
        yield
    finally:
        unlock(folder, writer=True)


def _places(folder: Path, written: list[Path]) -> set[Path]:
    """The folders into which a stage writes."""
    below = {Path(place) for path in written if not path.is_symlink() for place, _, _ in os.walk(path)}
    return {folder, folder / ".done", *(path.parent for path in written), *below}


@contextlib.contextmanager
def reading(data: DataFolder) -> Iterator[None]:
    """Until the end of the block nobody prepares the corpus anew; others may read it.

    Raises:
        RecipeError: another process is preparing it.
    """
    is_locked = data.path.is_dir() and lock_for_reading(data.path)
    try:
        yield
    finally:
        if is_locked:
            unlock(data.path, writer=False)


def reads_data(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator of a stage with the keyword ``data``, of :func:`reading` that corpus while the stage is at work."""

    @functools.wraps(function)
    def reader(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if kwargs.get("data") is None:
            return function(*args, **kwargs)  # which says that it is missing
        with reading(DataFolder(kwargs["data"])):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return reader


def refuse_foreign_outputs(marker: DoneMarker) -> None:
    """Only look, ahead of several stages: raise what :func:`stage` would raise of files that no stage made.

    Raises:
        RecipeError: there are some.
    """
    refuse_foreign(_folder(marker), marker.outputs, made_before=marker.path.is_file())


def _folder(marker: DoneMarker) -> Path:
    """The folder that the stage writes into: the one that holds ``.done``."""
    return marker.path.parent.parent if marker.path.parent.name == ".done" else marker.path.parent
