"""Options of ``fine-tune``, :func:`wespeaker_qm.stages.fine_tuning.fine_tune`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.chosen_model import add_device
from wespeaker_qm.bin.recordings import add_bad_fraction
from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.stages.fine_tuning import EVAL_SPEAKERS, FINE_TUNED, SETTINGS, fine_tune
from wespeaker_qm.utils.arguments import PROCESSES, SECONDS
from wespeaker_qm.utils.parallel import available_cpus

HELP = "train a model folder further on recordings of your own, with figures before and after"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm fine-tune``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the tree speaker/.../utterance.wav, of any format")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="model folder to begin with, or zip of one (default: that of WESPEAKER_QM_MODEL, else what ./run.sh has "
        "made last here)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="EXP",
        help=f"where the training, report.html and the new model/ go (default: {FINE_TUNED}/<name of DIR>)",
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
    add_device(parser)
    parser.add_argument(
        "--num_workers", type=PROCESSES, default=available_cpus(), help="default: all cores, %(default)s"
    )
    parser.add_argument(
        "--min_duration",
        type=SECONDS,
        default=FolderSettings.min_duration,
        metavar="SECONDS",
        help="shorter recordings are unusable (default: %(default)s)",
    )
    add_bad_fraction(parser)
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """From preparation to the new model."""
    fine_tune(
        audio_root=args.folder,
        model=args.model,
        out=args.out,
        eval_speakers=args.eval_speakers,
        noise=args.noise,
        overrides=args.set,
        device=args.device,
        num_workers=args.num_workers,
        min_duration=args.min_duration,
        max_bad_fraction=args.max_bad_fraction,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
