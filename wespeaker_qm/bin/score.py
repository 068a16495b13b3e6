"""Options of stage 5, :func:`wespeaker_qm.stages.scoring.score`."""

import argparse

from wespeaker_qm.stages.scoring import score
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "score trial lists by cosine, the training mean subtracted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=DataFolder, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=RunFolder,
        required=True,
        metavar="DIR",
        help="holds embeddings/<set>/xvector.scp and embeddings/mean_vec.npy; scores/<list>.score go here",
    )
    parser.add_argument("--trials", nargs="+", metavar="LIST", help="trial lists (default: all of corpus.yaml)")
    parser.add_argument(
        "--subtract_mean",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: plain cosine, without subtraction of the training mean (default: true)",
    )
    parser.add_argument(
        "--text",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: write only the binary scores/<list>.score.npz, which takes a third of the time (default: true)",
    )


def run(args: argparse.Namespace) -> None:
    """Score the lists."""
    score(
        data=args.data,
        run=args.exp_dir,
        trial_lists=args.trials,
        subtract_mean=args.subtract_mean,
        text=args.text,
    )
