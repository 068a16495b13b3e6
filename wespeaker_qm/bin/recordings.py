"""Options of the programs that read recordings: those that a list names, or a tree of them."""

import argparse
from pathlib import Path
from typing import Any

from wespeaker_qm.bin.chosen_model import add_device
from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.corpora.folder.settings import FolderSettings
from wespeaker_qm.utils.arguments import FRACTION, PROCESSES, SECONDS
from wespeaker_qm.utils.parallel import available_cpus


def add_tree(parser: argparse.ArgumentParser, *, model: str, out: str) -> None:
    """Declare the tree of recordings, the model, where the results go, and how they are made.

    Args:
        parser: to add to.
        model: what ``--model`` may be.
        out: what goes to ``--out``, and where that is by default.
    """
    parser.add_argument("folder", type=Path, metavar="DIR", help="the tree speaker/.../utterance.wav, of any format")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help=f"{model} (default: that of WESPEAKER_QM_MODEL, else what ./run.sh has made last here)",
    )
    parser.add_argument("--out", type=Path, metavar="EXP", help=out)
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


def tree_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_tree` has declared, by the names of the functions that take it."""
    names = ("model", "out", "device", "num_workers", "min_duration", "max_bad_fraction", "num_resamples", "seed")
    return {"audio_root": args.folder, **{name: getattr(args, name) for name in names}}


def add_bad_fraction(parser: argparse.ArgumentParser) -> None:
    """Declare ``--max_bad_fraction``."""
    parser.add_argument(
        "--max_bad_fraction",
        type=FRACTION,
        default=0.0,
        metavar="FRACTION",
        help="of the recordings that may be missing or unusable, and are left out (default: 0)",
    )
