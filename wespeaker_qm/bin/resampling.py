"""Options of the programs that give intervals."""

import argparse
from pathlib import Path

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES
from wespeaker_qm.utils.arguments import RESAMPLES, SEED


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
