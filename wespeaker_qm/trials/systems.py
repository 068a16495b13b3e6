"""Scores of several systems on the same trials."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import TrialSpeakers, speakers_by_folder, trial_speakers
from wespeaker_qm.trials.table import TrialTable
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
        RecipeError: a file is broken, or they do not hold the same trials; an utterance has no speaker.
    """
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
