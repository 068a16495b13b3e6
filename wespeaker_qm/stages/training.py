"""Stage 3: train a speaker network."""

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import refuse_short
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.network.device import refuse_missing_gpus
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.score.validation import validation_check
from wespeaker_qm.train import resume
from wespeaker_qm.train.build import TrainingParts, build_training
from wespeaker_qm.train.distributed import Processes, joined_processes
from wespeaker_qm.train.loop import Trainer, Validation
from wespeaker_qm.train.states import newest_state, read_state, state_paths
from wespeaker_qm.train.trackers import refuse_missing
from wespeaker_qm.utils.calls import AnyPath, listed, paths
from wespeaker_qm.utils.checksums import checksum_path, write_checked_text
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.ending import StopRequest, stop_requests
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.provenance import provenance
from wespeaker_qm.utils.stage import alone, reads_data
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

logger = logging.getLogger(__name__)

_CODE = "code: "
"""Begins what a marker says of its version, which is told under the name of :data:`.resume.CODE`, too."""


@reads_data
def train(
    *,
    data: AnyPath,
    run: AnyPath,
    config: AnyPath | Sequence[AnyPath],
    overrides: str | Sequence[str] = (),
    may_resume: bool = True,
    allow_world_size_change: bool = False,
) -> None:
    """Train, or continue, or find that nothing is left to do; all processes of a joint training call it alike.

    Args:
        data: a prepared and packed corpus.
        run: where the configuration, models and logs go.
        config: configuration files, merged left to right.
        overrides: of single keys, e.g. ``dataset_args.num_frms=100``.
        may_resume: whether to continue an interrupted run; False refuses a folder that holds one.
        allow_world_size_change: whether to continue with another number of processes, or of samples a batch.

    Raises:
        RecipeError: the configuration is wrong, the corpus is not packed, or the folder holds another run, files that
            no stage made, or a finished run that lost models.
        Stopped: a signal asked to end, and the state has been saved.
    """
    files, settings = paths(config), listed(overrides)
    loaded = functools.cache(lambda: load_config(files, settings))
    with joined_processes(lambda: loaded().device) as processes, stop_requests() as stop:
        _train(DataFolder(data), RunFolder(run), loaded(), processes, may_resume, stop, allow_world_size_change)


def _train(
    data: DataFolder,
    run: RunFolder,
    config: Config,
    processes: Processes,
    may_resume: bool,
    stop: StopRequest,
    may_change_batch: bool,
) -> None:
    processes.together(lambda: refuse_missing_gpus(config.gpus, config.device))
    processes.first_decides(lambda: refuse_missing(config.trackers))
    kept = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    outputs = [run.model(epoch) for epoch in kept]
    inputs = processes.together(lambda: {**resume.settings_of(config), **resume.made_from(config, data)})
    marker = DoneMarker(run.marker("train"), inputs, outputs, version=STAGE_VERSIONS["train"], checks_outputs=True)
    if processes.first_decides(marker.is_current):
        if processes.is_first and not run.config.is_file():
            with alone(run.path, [run.config], made_before=marker.path.is_file):
                _put_back_config(run, config.save)
        logger.info("stage train: nothing changed since the last run, skipped (delete %s to force)", marker.path)
        return
    with contextlib.ExitStack() as held:
        processes.first_decides(lambda: _take(held, run, config, marker))
        processes.check_shared(run.path)
        processes.agree(inputs, "what is trained on")
        continues = processes.first_decides(lambda: _continues(run, config, marker, may_resume))
        parts = processes.together(lambda: build_training(config, data, processes))
        processes.together(lambda: _refuse_short_speech(data, parts, processes))
        validate = processes.together(lambda: _validation(data, config, processes))
        trainer = Trainer(config, parts, run, validate, stop)
        if continues:
            trainer.resume(may_change_batch=may_change_batch)
            processes.together(lambda: _refuse_lost_models(trainer, run, marker))
        if processes.is_first:
            marker.clear()
            config.save(run.config)
            write_text(run.provenance, json.dumps(provenance(), indent=1) + "\n")
        trainer.run()
        if processes.is_first:
            marker.write()
            logger.info("trained %s; models are in %s", counted(config.num_epochs, "epoch", "epochs"), run.models)


def _put_back_config(run: RunFolder, write: Callable[[Path], None]) -> None:
    """A run that lost its ``config.yaml`` gets it back, whether or not it is gone on with: stage 4 needs it."""
    if not run.config.is_file():
        write(run.config)
        logger.info("%s: was gone, and is written again", run.config)


def _take(held: contextlib.ExitStack, run: RunFolder, config: Config, marker: DoneMarker) -> None:
    """Become, as long as ``held`` lasts, the only writer of a folder with nothing in it but what our trainings wrote.

    Raises:
        RecipeError: another process is at work there, or files lie there that no stage made.
    """
    models = [run.model(epoch) for epoch in range(1, config.num_epochs + 1)]
    written = [
        *models,
        run.config,
        run.provenance,
        run.training_log,
        run.states,
        *run.earlier_states,
        run.traces,
        run.trackers,
    ]

    def made_before() -> bool:
        # A state with our checksum beside it is of a training of ours, also of one that was called from Python.
        return marker.path.is_file() or any(checksum_path(path).is_file() for path in state_paths(run))

    held.enter_context(alone(run.path, written, made_before=made_before))


def _continues(run: RunFolder, config: Config, marker: DoneMarker, may_resume: bool) -> bool:
    """Whether there is a run to go on with.

    Raises:
        RecipeError: there is one that must not be continued, or overwritten.
    """
    if state_paths(run):
        if not run.config.is_file():
            settings = str(read_state(newest_state(run))["config"])
            _put_back_config(run, lambda path: write_checked_text(path, settings))
        if not may_resume:
            raise RecipeError(
                f"{run} holds a run already and --resume is false; use --resume true to continue it, choose "
                "another --exp_dir, or delete it"
            )
        return True
    if run.marker("adopt").is_file():
        raise RecipeError(
            f"{run} holds the evaluation of a finished model (run.sh --model); choose another --exp_dir, or delete it"
        )
    if marker.path.is_file():
        changes = [change for change in marker.changes() if not change.startswith(_CODE)]
        if all(change.startswith(resume.CODE) for change in changes):
            _put_back_config(run, config.save)
        same_audio = not any(change.startswith(resume.AUDIO) for change in changes)
        raise RecipeError(
            f"{run} holds a finished run, without a state in {run.states.name}/, that is not this one: "
            f"{'; '.join(changes)}. Choose another --exp_dir, or delete this one to train "
            f"anew; {resume.finished_run_use(run.path, same_audio=same_audio)}"
        )
    return False


def _refuse_short_speech(data: DataFolder, parts: TrainingParts, processes: Processes) -> None:
    """Extraction embeds every utterance that is packed: what it would refuse is told before the training.

    Raises:
        RecipeError: there are utterances that the network cannot embed.
    """
    corpus = CorpusInfo.load(data.info)
    for name in dict.fromkeys([corpus.train, *corpus.trials.values(), corpus.validation]):
        if processes.is_first and name is not None and data.set(name).shard_list.is_file():
            encoder, fbank = parts.model.encoder, parts.data.frontend.fbank
            refuse_short(ShardReader(data.set(name).shard_list), fbank, encoder.min_frames)


def _validation(data: DataFolder, config: Config, processes: Processes) -> Validation | None:
    """The held-out check, which the first process makes for all."""
    if not processes.is_first:
        return None
    return validation_check(data, build_fbank(config, dither=0.0), processes.device)


def _refuse_lost_models(trainer: Trainer, run: RunFolder, marker: DoneMarker) -> None:
    """A finished run writes no models any more, so those that it has lost would never come back.

    Raises:
        RecipeError: models are missing, or others than the run wrote.
    """
    lost = marker.lost_outputs() if trainer.last_epoch == trainer.config.num_epochs else []
    if lost:
        raise RecipeError(
            f"this run has finished, but {'; '.join(lost)}. Put back what it wrote, or delete "
            f"{run.states} and {marker.path} to train anew"
        )
