"""Options of stage 8, :func:`wespeaker_qm.stages.exporting.export`."""

import argparse

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.stages.exporting import export
from wespeaker_qm.utils.layout import LATEST_MODEL, DataFolder, RunFolder

HELP = "write the model as a folder that can be copied and used without the corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm export``."""
    parser.add_argument("--data", type=DataFolder, required=True, help="corpus it was evaluated on, e.g. data/mini")
    parser.add_argument(
        "--exp_dir", type=RunFolder, required=True, help="trained run; its model/ and model.zip are written"
    )
    add_resampling(parser)


def run(args: argparse.Namespace) -> None:
    """Write it, and note it as the one that ``embed`` and ``verify`` take by default."""
    export(data=args.data, run=args.exp_dir, num_resamples=args.num_resamples, seed=args.seed, latest=LATEST_MODEL)
