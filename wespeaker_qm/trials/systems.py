"""Scores of several systems on the same trials."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import TrialSpeakers, speakers_by_folder, trial_speakers
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.trials.variants import exists
from wespeaker_qm.utils.errors import RecipeError, nearest
from wespeaker_qm.utils.tables import read_map


class Systems(NamedTuple):
    """Scores of the same N trials by several systems."""

    trials: TrialTable
    scores: dict[str, NDArray[np.float64]]
    """Name -> (N,)."""
    speakers: TrialSpeakers | None
    """None where it is not known who speaks, or nobody asked."""


def read_systems(
    files: Mapping[str, Path], trials: Path | None, utt2spk: Path | None, *, with_speakers: bool = True
) -> Systems:
    """Read score files.

    Args:
        files: name of a system -> its scores.
        trials: the list that was scored; None takes trials and labels from the first file.
        utt2spk: utterance and speaker a line; None takes the speakers from the folders in the names, if there are any
            and the labels agree.
        with_speakers: whether anything depends on who speaks; without, nothing is asked about it.

    Raises:
        RecipeError: a file is not there or broken, or they do not hold the same trials; an utterance has no speaker.
    """
    for path in files.values():
        _refuse_absent(path, "a score file")
    if trials is not None:
        _refuse_absent(trials, "a trial list (--trials)")
    if utt2spk is not None and with_speakers:
        _refuse_absent(utt2spk, "a table of speakers (--utt2spk)")
    table = None if trials is None else read_trial_table(trials)
    scores = {}
    for name, path in files.items():
        scored = read_scores(path, table)
        table = scored.trials if table is None else table
        scores[name] = scored.scores
    if table is None:
        raise ValueError("no score files")
    if not with_speakers:
        return Systems(table, scores, None)
    speakers = speakers_by_folder(table) if utt2spk is None else trial_speakers(table, read_map(utt2spk))
    return Systems(table, scores, speakers)


def _refuse_absent(path: Path, kind: str) -> None:
    """Refuse a path that somebody has typed and that names no file: no stage need have made it.

    Raises:
        RecipeError: with what is there of such a name.
    """
    if exists(path):
        return
    if path.is_dir():
        raise RecipeError(f"{path}: found a folder, expected {kind}; name a file in it")
    if path.exists():
        raise RecipeError(f"{path}: is a pipe, a socket or a device, expected {kind}; write it to a file first")
    folder = path.parent
    if not folder.is_dir():
        raise RecipeError(f"{path}: no such file, expected {kind}; there is no folder {folder} either")
    near = nearest(path.name, (file.name for file in folder.iterdir() if file.is_file()))
    there = f"the nearest names there are {near}" if near else "there is no file at all in that folder"
    raise RecipeError(f"{path}: no such file, expected {kind}; {there}")


def refuse_copies(name: str, runs: Mapping[Path, NDArray[np.float64]]) -> None:
    """Refuse one run under two names: as two seeds it would say that seeds make no difference.

    Args:
        name: of the system.
        runs: where each run of it lies -> its scores, (N,).

    Raises:
        RecipeError: two runs have the same scores.
    """
    for (one, first), (other, second) in itertools.combinations(runs.items(), 2):
        if np.array_equal(first, second):
            raise RecipeError(
                f"{name}: {one} and {other} hold the same scores, expected runs that differ in their seed; name one of "
                "them only"
            )
