"""How a stage begins and ends: skipped when done, alone in its folder, never over files that are not its own."""

import logging
from collections.abc import Iterable
from pathlib import Path

from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.lock import lock_for_writing, unlock
from wespeaker_qm.utils.ownership import claim, refuse_foreign

logger = logging.getLogger(__name__)


def begin(marker: DoneMarker, stage: str, *, others: Iterable[Path] = (), task: str = "") -> bool:
    """Whether there is something to do. If so, the folder belongs to this process until :func:`finish`, or its own end.

    The marker's outputs are claimed and the marker is removed, before anything is overwritten.

    Args:
        marker: of the stage.
        stage: its name, for the message that nothing changed.
        others: what else it writes or removes: files, or folders of which it replaces every file.
        task: what it makes, in words that another process that makes just the same has, too. That one is then waited
            for; without a task a stage refuses to run beside any other.

    Raises:
        RecipeError: another process is at work in the folder, or files lie there that no stage made.
    """
    changes = marker.changes()
    if changes:
        if marker.path.is_file():
            logger.info("stage %s: done again, because %s", stage, "; ".join(changes[:5]) + " ..." * (len(changes) > 5))
        written = [*marker.outputs, *others]
        refuse_foreign(_folder(marker), written, made_before=marker.path.is_file())
        lock_for_writing(_folder(marker), task)
        if not marker.is_current():  # it may be by now
            claim(_folder(marker), written, made_before=marker.path.is_file())
            marker.clear()
            return True
        unlock(_folder(marker), writer=True)
    logger.info("stage %s: nothing changed since the last run, skipped (delete %s to force)", stage, marker.path)
    return False


def refuse(marker: DoneMarker) -> None:
    """Only look, ahead of several stages: raise what :func:`begin` would raise of files that no stage made.

    Raises:
        RecipeError: there are some.
    """
    refuse_foreign(_folder(marker), marker.outputs, made_before=marker.path.is_file())


def finish(marker: DoneMarker) -> None:
    """Write the marker, the last act of a stage, and let others into the folder."""
    marker.write()
    unlock(_folder(marker), writer=True)


def _folder(marker: DoneMarker) -> Path:
    """The folder that the stage writes into: the one that holds ``.done``."""
    return marker.path.parent.parent if marker.path.parent.name == ".done" else marker.path.parent
