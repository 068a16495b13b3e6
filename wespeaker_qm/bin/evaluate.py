"""Options of the end of stages 5 to 7, :func:`wespeaker_qm.stages.evaluating.evaluate`."""

import argparse

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.stages.evaluating import OWN_SYSTEMS, evaluate
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "EER, minDCF and TAR@FAR of all trial lists with intervals, DET plot, report.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=DataFolder, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=RunFolder,
        required=True,
        metavar="DIR",
        help="scored experiment; metrics.json, report.md, report.tex, det.png, det.pdf and training.png go here",
    )
    parser.add_argument(
        "--baseline",
        type=_name_and_folder,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another system, scored on the same lists into DIR/scores, shown beside it (may be given several times)",
    )
    add_resampling(parser)


def _name_and_folder(text: str) -> tuple[str, RunFolder]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder) or name in OWN_SYSTEMS:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected NAME=DIR with a NAME other than {', '.join(OWN_SYSTEMS)}"
        )
    return name, RunFolder(folder)


def run(args: argparse.Namespace) -> None:
    """Evaluate all lists and systems."""
    baselines: dict[str, RunFolder] = {}
    for name, folder in args.baseline:
        if name in baselines:
            raise RecipeError(f"--baseline: the name {name} stands twice, expected another name for {folder}")
        baselines[name] = folder
    evaluate(
        data=args.data,
        run=args.exp_dir,
        baselines=baselines,
        num_resamples=args.num_resamples,
        seed=args.seed,
    )
