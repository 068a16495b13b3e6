"""Stage 4, first part: average the last checkpoints."""

import logging

from wespeaker_qm.config import load_config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker, file_digest, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)


def average(*, run: AnyPath) -> None:
    """Write the mean weights of the last ``num_avg`` epochs of a training, ``models/avg_model.pt``.

    Where there is an average, but none of its checkpoints any more, it is taken as it is.

    Args:
        run: a trained run; ``num_epochs`` and ``num_avg`` are read from its ``config.yaml``.

    Raises:
        RecipeError: a checkpoint or the configuration is missing or damaged; the average was exchanged for another.
    """
    run = RunFolder(run)
    config = load_config([run.config], for_training=False)
    epochs = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    paths = [run.model(epoch) for epoch in epochs]
    if run.average.is_file() and not any(path.is_file() for path in paths):  # a copy of a run, without them
        checkpoint.load(run.average)
        logger.info("stage average: %s is taken as it is, because its checkpoints are not there", run.average)
        return
    inputs = {f"models/{path.name}": file_digest(path) for path in paths}
    marker = DoneMarker(
        run.marker("average"), inputs, [run.average], version=STAGE_VERSIONS["average"], checks_outputs=True
    )
    if not marker.is_current() and run.average.is_file() and recorded_inputs(marker.path) == marker.inputs:
        raise RecipeError(
            f"{run.average}: not what was averaged here, though the checkpoints are the same: damaged, or put here by "
            "somebody. Delete it to average again; to use it as it is, go on with wespeaker-qm extract"
        )
    with stage("average", marker) as is_due:
        if not is_due:
            return
        checkpoint.save(checkpoint.mean_weights(paths), run.average)
    logger.info("averaged epochs %d to %d into %s", epochs[0], epochs[-1], run.average)
