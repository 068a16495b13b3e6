"""Options of stage 7, :func:`wespeaker_qm.stages.calibrating.calibrate`."""

import argparse

from wespeaker_qm.stages.calibrating import calibrate
from wespeaker_qm.trials.variants import NORMALISED
from wespeaker_qm.utils.arguments import true_or_false, whole_number
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "calibrate the scores to log-likelihood ratios, on trials of other speakers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=DataFolder, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=RunFolder,
        required=True,
        metavar="DIR",
        help="normalised experiment; scores/<list>.calibrated.score and scores/calibration.json go here",
    )
    parser.add_argument(
        "--scores", choices=NORMALISED, default="asnorm", help="which scores to calibrate (default: asnorm)"
    )
    parser.add_argument("--top_n", type=whole_number(2), metavar="N", help="of stage 6 (default: what that took)")
    parser.add_argument(
        "--quality",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: by the score alone, without durations, embeddings' lengths and cohort means (default: true)",
    )


def run(args: argparse.Namespace) -> None:
    """Fit, and apply to all lists."""
    calibrate(data=args.data, run=args.exp_dir, scores=args.scores, top_n=args.top_n, with_quality=args.quality)
