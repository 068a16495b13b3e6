"""Options of stage 3, :func:`wespeaker_qm.stages.training.train`."""

import argparse
from pathlib import Path

from wespeaker_qm.stages.training import train
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.layout import DataFolder, RunFolder

HELP = "train a speaker network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm train``."""
    parser.add_argument("--data", type=DataFolder, required=True, help="prepared and packed corpus, e.g. data/mini")
    parser.add_argument("--exp_dir", type=RunFolder, required=True, help="where models and logs go")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        required=True,
        metavar="YAML",
        help="configuration files, merged left to right",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="dotted overrides, e.g. dataset_args.num_frms=100"
    )
    parser.add_argument(
        "--resume",
        type=true_or_false,
        default=True,
        metavar="true|false",
        help="continue an interrupted run (default: true); false refuses a folder that holds one",
    )
    parser.add_argument(
        "--allow_world_size_change",
        type=true_or_false,
        default=False,
        metavar="true|false",
        help="continue with another number of processes, or another dataloader_args.batch_size: the rest of the epoch "
        "is divided anew, schedules go on by samples (default: false, which refuses that)",
    )


def run(args: argparse.Namespace) -> None:
    """Train, or continue, or find that nothing is left to do."""
    train(
        data=args.data,
        run=args.exp_dir,
        config=args.config,
        overrides=args.set,
        may_resume=args.resume,
        allow_world_size_change=args.allow_world_size_change,
    )
