"""Options of :func:`wespeaker_qm.stages.thresholds.find_thresholds`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.stages.thresholds import find_thresholds
from wespeaker_qm.utils.arguments import RATE

HELP = "the threshold for a wanted false-accept rate, with its interval and the trials it rests on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("scores", type=Path, metavar="FILE", help="score file, as for wespeaker-qm metrics")
    parser.add_argument("--far", nargs="+", type=RATE, required=True, metavar="RATE", help="wanted, e.g. 1e-4")
    add_labels(parser)
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Print a line a rate."""
    find_thresholds(
        score_file=args.scores,
        fars=args.far,
        trials=args.trials,
        utt2spk=args.utt2spk,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
