"""Whether a saved state belongs to the run that wants to continue from it, of the same settings and the same data; and
where in its epochs that is, maybe in other steps than before.
"""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from wespeaker_qm.config import Config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.plan import BatchPlan, Rest
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.utils.done import differences, file_digest, value_digest
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = frozenset(
    {
        "exp_dir",
        "gpus",
        "log_batch_interval",
        "model_init",
        "profile",
        "save_epoch_interval",
        "save_minutes",
        "save_step_interval",
        "trackers",
        "valid_epoch_interval",
        "dataloader_args.frontend",
        "dataloader_args.num_workers",
        "dataloader_args.pin_memory",
        "dataloader_args.prefetch_factor",
    }
)
"""Keys that may change between a run and its continuation, because they change no weight. ``model_init`` is a path, and
what counts is the content of that file."""

ALLOW = "allow_world_size_change"
"""Option of the training, and of run.sh."""
BATCH_SIZE = "dataloader_args.batch_size"
"""Key of what may change, with the number of processes, where that is allowed."""

CODE = "training code"
"""Name of the version of the training, among what the weights are made from."""
AUDIO = "training audio"
_NONE = "none"


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted key -> value of the settings that the weights depend on."""
    flat = _flat(yaml.safe_load(config.to_yaml()))
    return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}


def made_from(config: Config, data: DataFolder) -> dict[str, Any]:
    """What the weights are made from beside the settings: a digest of the content of each, by name.

    Raises:
        RecipeError: a set is not packed.
    """
    corpus = CorpusInfo.load(data.info)
    augments = config.dataset_args.aug_prob > 0
    return {
        CODE: STAGE_VERSIONS["train"],
        AUDIO: packed_digest(data.set(corpus.training_set(data.info)).path),
        "noise": packed_digest(data.set(corpus.noise).path) if augments and corpus.noise else _NONE,
        "room impulse responses": packed_digest(data.set(corpus.rirs).path) if augments and corpus.rirs else _NONE,
        "initial weights": "random" if config.model_init is None else file_digest(config.model_init),
    }


def validation_digest(data: DataFolder) -> str:
    """Digest of the audio and trials of the held-out check: no weight depends on them, but the log does."""
    corpus = CorpusInfo.load(data.info)
    if corpus.validation is None:
        return _NONE
    trials = file_digest(data.trials(corpus.validation))
    return value_digest([packed_digest(data.set(corpus.validation).path), trials])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def finished_run_use(run: Path, *, same_audio: bool) -> str:
    """What may be done with a finished run that is not trained again, for messages.

    Args:
        run: its folder.
        same_audio: whether it was trained on this corpus; only then its evaluation on it belongs into its folder.
    """
    if same_audio:
        return "to use its weights as they are, go on with run.sh --stage 4"
    return f"to evaluate it on this corpus: run.sh --model {run}, with another --exp_dir or none"


def check_same_run(
    state: dict[str, Any],
    config: Config,
    *,
    speakers: list[str],
    sources: dict[str, Any],
    world_size: int,
    path: Path,
    run: Path,
    may_change_batch: bool = False,
) -> None:
    """Check that a state was saved with this configuration, from this data, and with this number of processes.

    Args:
        state: as ``Trainer.state`` makes it.
        config: of the run that wants to continue.
        speakers: that it trains on.
        sources: as :func:`made_from` says.
        world_size: its processes.
        path: where the state was read, for the message.
        run: folder of the run, likewise.
        may_change_batch: whether the number of processes, and of samples in the batch of each, may differ.

    Raises:
        RecipeError: they differ; every difference is named, settings with both values.
    """
    before = {key: value for key, value in _flat(yaml.safe_load(state["config"])).items() if key not in WITHOUT_EFFECT}
    now = settings_of(config)
    other = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    of_batch = [_change(key, before, now) for key in other if key == BATCH_SIZE]
    if state["world_size"] != world_size:
        of_batch.append(f"processes: was {state['world_size']}, now {world_size}")
    changes = [_change(key, before, now) for key in other if key != BATCH_SIZE]
    if state["speakers"] != speakers:
        changes.append(f"training speakers: was {len(state['speakers'])}, now {len(speakers)}, or others")
    if "made_from" in state:
        changes += differences(state["made_from"], sources)
    else:
        changes.append("an earlier version wrote it, which did not note what data it was trained on")
    is_batch_only = not changes
    if not may_change_batch:
        changes = of_batch + changes
    if changes:
        use = f"to begin another run with its weights, add --overrides model_init={path} to another --exp_dir"
        if state["epoch"] >= config.num_epochs:
            same_audio = state.get("made_from", sources).get(AUDIO) == sources[AUDIO]
            use = finished_run_use(run, same_audio=same_audio)
        elif is_batch_only:
            use = f"to go on with other batches, add --{ALLOW} true; {use}"
        raise RecipeError(
            f"{path}: here is a run ({state['epoch']} of {config.num_epochs} epochs) that was made otherwise: "
            f"{'; '.join(changes)}. Nothing was trained. Set them back, choose another --exp_dir, or delete "
            f"{run} to train anew; {use}"
        )


def _change(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    return f"{key}: was {before.get(key)!r}, now {now.get(key)!r}"


class Place(NamedTuple):
    """Where a training goes on."""

    step: int
    """Updates so far, whatever their batches."""
    schedule_step: int
    """The step of the schedules and of the epochs: as if all batches had been as they are now."""
    rest: Rest | None
    """What is left of the epoch that had begun; None where none had."""


def place_of(state: dict[str, Any], plan: BatchPlan, *, divides_classes: bool) -> Place:
    """Where a state lies in the epochs of ``plan``.

    With other batches than those that it was saved with, what is left of its epoch is divided evenly over steps of
    about the new size, so that each sample of the epoch is still seen once; the steps before are counted in new ones,
    so that schedules go on where they were.

    Args:
        state: as ``Trainer.state`` makes it, which :func:`check_same_run` has let through.
        plan: of the training that goes on.
        divides_classes: whether classes are divided over the processes, whose batches must then be of one size: fewer
            samples than there are processes may be left out.

    Raises:
        RecipeError: fewer samples are left of the epoch than there are processes.
    """
    batch_size = _flat(yaml.safe_load(state["config"]))[BATCH_SIZE]
    global_batch = batch_size * state["world_size"]
    steps_per_epoch = plan.num_samples // global_batch
    step = state.get("step", state["epoch"] * steps_per_epoch)  # an earlier version knew epochs only
    scheduled = state.get("schedule_step", step)
    within = scheduled % steps_per_epoch
    if not within:
        return Place(step, scheduled // steps_per_epoch * len(plan), None)
    length = steps_per_epoch * global_batch
    rest = Rest(*(state.get("rest") or (within * global_batch, length, steps_per_epoch - within)))
    if (batch_size, state["world_size"]) == (plan.batch_size, plan.world_size):
        return Place(step, scheduled, rest)
    num_left = rest.length - rest.position
    num_left -= num_left % plan.world_size if divides_classes else 0
    if num_left < plan.world_size:
        raise RecipeError(
            f"processes: found {plan.world_size}, expected at most {num_left}, as many as there are samples left of "
            f"the epoch that was begun with {state['world_size']}; go on with fewer until it ends"
        )
    logger.warning(
        "goes on with batches of %d on %s, before of %d on %d: %s left of this epoch; the "
        "learning rate is that of the new size",
        plan.batch_size,
        counted(plan.world_size, "process", "processes"),
        *(batch_size, state["world_size"]),
        counted(num_left, "sample is", "samples are"),
    )
    # In none of them is a process without a sample.
    steps = min(math.ceil(num_left / plan.global_batch), len(plan), num_left // plan.world_size)
    end = (scheduled // steps_per_epoch + 1) * len(plan)
    return Place(step, end - steps, Rest(rest.position, rest.position + num_left, steps))
