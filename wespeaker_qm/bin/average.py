"""Options of the first part of stage 4, :func:`wespeaker_qm.stages.averaging.average`."""

import argparse

from wespeaker_qm.stages.averaging import average
from wespeaker_qm.utils.layout import RunFolder

HELP = "average the last checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm average``."""
    parser.add_argument(
        "--exp_dir", type=RunFolder, required=True, help="trained run; num_avg is read from its config.yaml"
    )


def run(args: argparse.Namespace) -> None:
    """Write ``models/avg_model.pt``."""
    average(run=args.exp_dir)
