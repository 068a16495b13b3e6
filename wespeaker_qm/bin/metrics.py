"""Options of :func:`wespeaker_qm.stages.measuring.measure`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.evaluate.operating_points import FARS, P_TARGETS, TARS
from wespeaker_qm.stages.measuring import UNITS, measure
from wespeaker_qm.utils.arguments import RATE, true_or_false

HELP = "EER, TAR@FAR, FAR@TAR, minDCF, Cllr of any score files, with intervals over speakers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "scores",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="`enrolment test score label`, WeSpeaker's 8 columns, or Kaldi's `enrolment test score` with --trials; "
        "several files are systems on the same trials",
    )
    add_labels(parser)
    parser.add_argument(
        "--far", nargs="+", type=RATE, default=FARS, metavar="RATE", help="false-accept rates of TAR@FAR"
    )
    parser.add_argument(
        "--tar", nargs="+", type=RATE, default=TARS, metavar="RATE", help="true-accept rates of FAR@TAR"
    )
    parser.add_argument("--p_target", nargs="+", type=RATE, default=P_TARGETS, metavar="P", help="priors of the DCF")
    parser.add_argument(
        "--llr",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="true: scores are natural log-likelihood ratios; adds Cllr and actDCF (default: false)",
    )
    add_resampling(parser)
    parser.add_argument(
        "--by",
        choices=UNITS,
        default="speaker",
        help="what is drawn; trial is too narrow, and there to show it (default: speaker)",
    )
    parser.add_argument("--det", type=Path, metavar="NAME", help="draw the DET curves into NAME.png and NAME.pdf")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE, rates as fractions")


def run(args: argparse.Namespace) -> None:
    """Measure the systems."""
    measure(
        score_files=args.scores,
        trials=args.trials,
        utt2spk=args.utt2spk,
        fars=args.far,
        tars=args.tar,
        p_targets=args.p_target,
        are_llrs=args.llr,
        num_resamples=args.num_resamples,
        seed=args.seed,
        by=args.by,
        det=args.det,
        json=args.json,
    )
