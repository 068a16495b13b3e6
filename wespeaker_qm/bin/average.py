"""Stage 4, first half: average the last checkpoints."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.config import load_config
from wespeaker_qm.train import checkpoint
from wespeaker_qm.utils.done import DoneMarker, file_digest, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish

HELP = "average the last checkpoints (stage 4)"

VERSION = 1
"""Of the code; raised when the average of the same checkpoints changes."""

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
    inputs = {f"models/{path.name}": file_digest(path) for path in paths}
    marker = DoneMarker(args.exp_dir / ".done" / "average", inputs, [target], version=VERSION, checks_outputs=True)
    if not marker.is_current() and target.is_file() and recorded_inputs(marker.path) == marker.inputs:
        raise RecipeError(
            f"{target}: not what was averaged here, though the checkpoints are the same: damaged, or put here by "
            "somebody. Delete it to average again; to use it as it is, go on with wespeaker-qm extract"
        )
    if not begin(marker, "average"):
        return
    checkpoint.save(checkpoint.average(paths), target)
    finish(marker)
    logger.info("averaged epochs %d to %d into %s", epochs[0], epochs[-1], target)
