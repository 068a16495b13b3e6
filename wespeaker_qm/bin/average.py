"""Stage 4, first half: average the last checkpoints."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.config import load_config
from wespeaker_qm.train import checkpoint
from wespeaker_qm.utils.done import DoneMarker, file_stamp
from wespeaker_qm.utils.stage import begin, finish

HELP = "average the last checkpoints (stage 4)"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm average``."""
    parser.add_argument("--exp_dir", type=Path, required=True, help="trained run; num_avg is read from its config.yaml")


def run(args: argparse.Namespace) -> None:
    """Write ``models/avg_model.pt``."""
    config = load_config([args.exp_dir / "config.yaml"])
    epochs = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    paths = [checkpoint.model_path(args.exp_dir, epoch) for epoch in epochs]
    target = checkpoint.average_path(args.exp_dir)
    marker = DoneMarker(args.exp_dir / ".done" / "average", [file_stamp(path) for path in paths], [target])
    if not begin(marker, "average"):
        return
    checkpoint.save(checkpoint.average(paths), target)
    finish(marker)
    logger.info("averaged epochs %d to %d into %s", epochs[0], epochs[-1], target)
