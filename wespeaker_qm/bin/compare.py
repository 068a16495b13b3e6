"""Options of :func:`wespeaker_qm.stages.comparing.compare`."""

import argparse
from pathlib import Path

from wespeaker_qm.bin.resampling import add_labels, add_resampling
from wespeaker_qm.stages.comparing import compare
from wespeaker_qm.utils.errors import RecipeError

HELP = "differences of systems on the same trials, with intervals and p-values; several seeds of one are averaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "systems",
        nargs="+",
        type=_name_and_files,
        metavar="NAME=FILE[,FILE...]",
        help="a system and its score file; several files are runs of it that differ in their seed",
    )
    add_labels(parser)
    parser.add_argument(
        "--figures",
        nargs="+",
        metavar="NAME",
        help="what to compare, e.g. EER 'TAR@FAR 1e-3', at any rate (default: all that the trials can measure)",
    )
    add_resampling(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparisons to FILE, rates as fractions")


def _name_and_files(text: str) -> tuple[str, list[Path]]:
    name, equals, files = text.partition("=")
    if not (name and equals and files and all(files.split(","))):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=FILE or NAME=FILE,FILE,...")
    return name, [Path(file) for file in files.split(",")]


def run(args: argparse.Namespace) -> None:
    """Print each system and all differences."""
    names = [name for name, _ in args.systems]
    if len(set(names)) < len(names):
        raise RecipeError(f"found the names {', '.join(names)}, expected each system once; join its files by commas")
    compare(
        systems=dict(args.systems),
        trials=args.trials,
        utt2spk=args.utt2spk,
        figures=args.figures,
        num_resamples=args.num_resamples,
        seed=args.seed,
        json=args.json,
    )
