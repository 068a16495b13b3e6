"""Options of the programs that give intervals, and the systems that are named on their command lines."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.trials.speakers import TrialSpeakers, speakers_by_folder, trial_speakers
from wespeaker_qm.trials.table import TrialTable, read_scores, read_trial_table
from wespeaker_qm.utils.arguments import RESAMPLES, SEED
from wespeaker_qm.utils.tables import read_map


def add_resampling(parser: argparse.ArgumentParser) -> None:
    """Declare ``--num_resamples`` and ``--seed``."""
    parser.add_argument(
        "--num_resamples",
        type=RESAMPLES,
        default=NUM_RESAMPLES,
        metavar="N",
        help=f"resamples of the speakers, for 95 %% intervals; 0 for none (default: {NUM_RESAMPLES})",
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of the resamples (default: 0)")


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Declare ``--trials`` and ``--utt2spk``."""
    parser.add_argument(
        "--trials",
        type=Path,
        metavar="FILE",
        help="trial list, `enrolment test target|nontarget` or VoxCeleb's `1|0 enrolment test`; needed where the score "
        "files have no labels, and checked where they have",
    )
    parser.add_argument(
        "--utt2spk",
        type=Path,
        metavar="FILE",
        help="utterance and speaker a line, for intervals; not needed where names begin with the speaker and a slash, "
        "as in VoxCeleb",
    )


class Systems(NamedTuple):
    """Scores of the same trials by several systems."""

    trials: TrialTable
    scores: dict[str, NDArray[np.float64]]
    """Name -> (N,)."""
    speakers: TrialSpeakers | None
    """None where it is not known who speaks."""


def read_systems(files: Mapping[str, Path], trials: Path | None, utt2spk: Path | None) -> Systems:
    """Read score files; without a trial list the first file's trials and labels are those of all.

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
    speaker = read_map(utt2spk) if utt2spk is not None else speakers_by_folder(table)
    return Systems(table, scores, None if speaker is None else trial_speakers(table, speaker))
