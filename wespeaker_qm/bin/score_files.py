"""Options of ``score-files``, :func:`wespeaker_qm.stages.scoring_files.score_files`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.chosen_model import add_model
from wespeaker_qm.bin.recordings import add_bad_fraction
from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.stages.scoring_files import score_files
from wespeaker_qm.utils.arguments import COUNT

HELP = "score a trial list of recordings with a finished model, and measure it where it has labels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm score-files``."""
    parser.add_argument(
        "trials",
        type=Path,
        metavar="TRIALS",
        help="`enrolment test target|nontarget`, `1|0 enrolment test`, or `enrolment test` without labels",
    )
    parser.add_argument(
        "--wav_root", type=Path, required=True, metavar="DIR", help="the names in TRIALS are recordings below it"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="scores, `enrolment test score label` (default: <name of TRIALS>.score)",
    )
    parser.add_argument(
        "--utt2spk",
        type=Path,
        metavar="FILE",
        help="recording and speaker a line, for intervals; not needed where names begin with the speaker and a slash",
    )
    parser.add_argument("--batch", type=COUNT, default=16, metavar="N", help="recordings read at a time (default: 16)")
    add_bad_fraction(parser)
    add_model(parser)
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Write the scores, and log the figures."""
    score_files(
        trials=args.trials,
        wav_root=args.wav_root,
        model=args.model,
        out=args.out,
        utt2spk=args.utt2spk,
        device=args.device,
        batch=args.batch,
        max_bad_fraction=args.max_bad_fraction,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
