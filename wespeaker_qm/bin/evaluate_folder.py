"""Options of ``evaluate-folder``, :func:`wespeaker_qm.stages.evaluating_folder.evaluate_folder`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.chosen_model import add_device
from wespeaker_qm.bin.recordings import add_bad_fraction
from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.stages.evaluating_folder import EVALUATED, evaluate_folder
from wespeaker_qm.utils.arguments import PROCESSES, SECONDS
from wespeaker_qm.utils.parallel import available_cpus

HELP = "evaluate a finished model on a tree of recordings, with report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm evaluate-folder``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the tree speaker/.../utterance.wav, of any format")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="model folder, zip of one, or a folder with config.yaml and avg_model.pt (default: that of "
        "WESPEAKER_QM_MODEL, else what ./run.sh has made last here)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="EXP", help=f"where scores and reports go (default: {EVALUATED}/<name of DIR>)"
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
    """From preparation to report."""
    evaluate_folder(
        audio_root=args.folder,
        model=args.model,
        out=args.out,
        device=args.device,
        num_workers=args.num_workers,
        min_duration=args.min_duration,
        max_bad_fraction=args.max_bad_fraction,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
