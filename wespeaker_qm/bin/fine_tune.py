"""Options of ``fine-tune``, :func:`wespeaker_qm.stages.fine_tuning.fine_tune`."""

import argparse

from wespeaker_qm.bin.recordings import add_tree, tree_options
from wespeaker_qm.stages.fine_tuning import EVAL_SPEAKERS, FINE_TUNED, SETTINGS, fine_tune

HELP = "train a model folder further on recordings of your own, with figures before and after"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm fine-tune``."""
    add_tree(
        parser,
        model="model folder to begin with, or zip of one",
        out=f"where the training, report.html and the new model/ go (default: {FINE_TUNED}/<name of DIR>)",
    )
    parser.add_argument(
        "--eval_speakers",
        default=EVAL_SPEAKERS,
        metavar="X",
        help="who is held out for the figures and not trained on: a fraction of the speakers, how many, names with "
        "commas, or a file of names (default: %(default)s)",
    )
    parser.add_argument(
        "--noise",
        default="babble",
        metavar="X",
        help="to augment with: babble of the training speakers, debian (downloads 232 MB), or a folder of noises "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help=f"settings over {SETTINGS}, e.g. num_epochs=20"
    )


def run(args: argparse.Namespace) -> None:
    """From preparation to the new model."""
    fine_tune(eval_speakers=args.eval_speakers, noise=args.noise, overrides=args.set, **tree_options(args))
