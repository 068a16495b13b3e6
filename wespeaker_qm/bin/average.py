"""Options of the first part of stage 4, :func:`wespeaker_qm.stages.averaging.average`."""

import argparse

from wespeaker_qm.stages.averaging import average
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "average the last checkpoints, and whiten embeddings within classes (whiten: true)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm average``."""
    parser.add_argument(
        "--data", type=DataFolder, metavar="DIR", help="prepared corpus; needed where config.yaml has whiten: true"
    )
    parser.add_argument(
        "--exp_dir",
        type=RunFolder,
        required=True,
        metavar="DIR",
        help="trained run; num_avg and whiten are read from its config.yaml",
    )


def run(args: argparse.Namespace) -> None:
    """Write ``models/avg_model.pt``."""
    average(run=args.exp_dir, data=args.data)
