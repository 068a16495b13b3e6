"""Options of stage 6, :func:`wespeaker_qm.stages.normalising.normalise`."""

import argparse

from wespeaker_qm.score.normalisation import TOP_N
from wespeaker_qm.stages.normalising import normalise
from wespeaker_qm.trials.variants import NORMALISED
from wespeaker_qm.utils.arguments import whole_number
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "AS-norm or S-norm of the scores against the training speakers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=DataFolder, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=RunFolder,
        required=True,
        metavar="DIR",
        help="scored experiment; scores/<list>.<method>.score go here, and the cohort beside the training embeddings",
    )
    parser.add_argument(
        "--method", choices=NORMALISED, default="asnorm", help="all of the cohort, or the nearest (default: asnorm)"
    )
    parser.add_argument(
        "--top_n",
        type=whole_number(2),
        default=TOP_N,
        metavar="N",
        help=f"asnorm: how many of the nearest cohort speakers count; at most all of them (default: {TOP_N})",
    )


def run(args: argparse.Namespace) -> None:
    """Normalise all lists."""
    normalise(data=args.data, run=args.exp_dir, method=args.method, top_n=args.top_n)
