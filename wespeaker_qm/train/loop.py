"""The training loop.

::

    BatchPlan -> loader with front end -> encoder -> head -> mean loss -> SGD
       margin(step) ----------------------------^         learning rate(step) ^

Everything random is a function of (seed, epoch, position), schedules are functions of the step, and the state after a
step is saved whole: a run that is killed at any moment and resumed ends with the weights of one that was not.
"""

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.dataset.plan import Rest
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.build import TrainingParts
from wespeaker_qm.train.log import Journal
from wespeaker_qm.train.reinit import reinitialise_head
from wespeaker_qm.train.resume import check_same_run, place_of
from wespeaker_qm.train.speed import arithmetic_of
from wespeaker_qm.train.state_check import refuse_unfit
from wespeaker_qm.train.states import State, StateWriter, host_copy, newest_state, read_state
from wespeaker_qm.train.trace import StepTrace
from wespeaker_qm.train.update import Underway, Updater
from wespeaker_qm.utils.checksums import Checksum, checksum_of
from wespeaker_qm.utils.ending import COMMAND, Stopped, StopRequest
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.remedies import mended

logger = logging.getLogger(__name__)

Validation = Callable[[SpeakerEncoder], dict[str, float | None]]
"""Figures of a held-out verification check of the network, which is in evaluation mode."""


MOST_SKIPPED = 32
"""Updates in a row that a scaled loss may go without. Each halves the scale, and 2^30 lies between the smallest and the
largest normal number of float16: what is not finite at all of these scales is so at any."""


class NonFiniteLossError(RecipeError):
    """The loss of a batch, or its gradients, are NaN or infinite; nothing has been updated with it."""


class Trainer:
    """A run: its parts, and how far it is.

    Args:
        config: of the run.
        parts: of the training; see :func:`wespeaker_qm.train.build.build_training`.
        folder: where checkpoints and logs go.
        validate: the held-out check, or None.
        stop: who may ask to end, or None.
    """

    def __init__(
        self,
        config: Config,
        parts: TrainingParts,
        folder: RunFolder,
        validate: Validation | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.config = config
        self.parts = parts
        self.folder = folder
        self.validate = validate
        self.stop = stop or StopRequest()
        self.step = 0
        """Updates so far."""
        self.shift = 0
        """Steps of epochs and schedules less updates: not 0 where batches were of another size."""
        self.samples = 0
        """Samples of these updates, on all processes."""
        self.skipped = 0
        """The last so many updates were not made, because the gradients of a scaled loss were not finite."""
        self.rest: Rest | None = None
        """What is left of an epoch that another process had begun."""
        self.elapsed_s = 0.0
        self.saved: Path | None = None
        """The last state that was saved."""
        self.steps_per_epoch = len(parts.plan)
        self.network: torch.nn.Module = parts.model
        self._underway: Underway | None = None
        self._read_before: Underway | None = None
        self._journal_state: dict[str, Any] | None = None
        self._saved_at = self._counted_at = time.monotonic()
        self._is_save_asked = self._is_stop_asked = False
        # On the device already: a number of the host that is needed there would be copied in every step.
        self._no, self._yes = torch.tensor([0.0, 1.0], device=parts.processes.device)

    @property
    def schedule_step(self) -> int:
        """Steps of epochs and schedules so far."""
        return self.step + self.shift

    @property
    def last_epoch(self) -> int:
        """The last finished epoch, from 1; 0 is none."""
        return self.schedule_step // self.steps_per_epoch

    def run(self) -> None:
        """Train the epochs that are left.

        Raises:
            Stopped: a signal asked for it, on one of the processes; the state has been saved.
        """
        parts, config = self.parts, self.config
        logger.info(
            "training %s on %s: %s, %s, %s, %s of %d x %d samples an epoch",
            config.model,
            parts.processes.device,
            counted(len(parts.data.speakers), "speaker", "speakers"),
            counted(parts.data.num_classes, "class", "classes"),
            counted(len(parts.data.labels), "utterance", "utterances"),
            counted(self.steps_per_epoch, "step", "steps"),
            parts.processes.world_size,
            config.dataloader_args.batch_size,
        )
        args = config.dataset_args
        arithmetic = arithmetic_of(
            parts.model.encoder,
            args.num_frms,
            args.fbank_args.num_mel_bins,
            parts.processes.device,
            parts.model.amp_dtype,
        )
        self.network = parts.model.across(parts.processes)
        self._update = Updater(self.network, parts.model, parts.optimizer, parts.scaler, parts.processes)
        self._underway = None
        self._journal = Journal(
            self.folder,
            config,
            parts.processes,
            arithmetic,
            epoch=self.last_epoch + 1,
            step=self.step,
            samples=self.samples,
            samples_left=self._samples_left(),
            state=self._journal_state,
        )
        self._writer = StateWriter(self.folder, before=self.saved)
        self._trace = StepTrace(self.folder, config.profile, parts.processes)
        with self._journal, self._writer, contextlib.closing(self._trace):
            while self.last_epoch < config.num_epochs:
                self._run_epoch(self.last_epoch + 1)
            parts.processes.together(self._writer.close)
        logger.info("the training waited %.1f s in all for its states to be saved", self._writer.waited_s)

    def _run_epoch(self, epoch: int) -> None:
        """Train an epoch, or what is left of it."""
        self._saved_at = self._counted_at = time.monotonic()
        self.parts.plan.set_epoch(epoch, self.rest)
        if self.rest is None:
            if epoch == self.parts.reinit_epoch:
                self._reinitialise_head()
            self._journal.start_epoch(epoch)
        self.rest = None
        self.network.train()
        self._read_before = None
        for batch in self.parts.loader:
            self._trace.begin(self.step)
            self._step(self.step, batch)
            self.step += 1
            self._trace.end(self.step)
            if self.schedule_step % self.steps_per_epoch and self._is_save_due():
                self._save()
                self._end_if_asked()
        self._catch_up()
        if epoch == self.config.num_epochs and self.skipped >= self.step:
            self._refuse_skipped(self.step - 1)
        self._count_time()
        self._journal.end_epoch(self.step, self._scheduled(self.step - 1), self.elapsed_s)
        self.parts.processes.together(lambda: self._refuse_not_finite(epoch))
        self.parts.processes.together(lambda: self._validate(epoch))
        self._save(epoch)
        if epoch < self.config.num_epochs:
            self._end_if_asked()

    def _step(self, step: int, batch: TrainingBatch) -> None:
        """Begin an update, and tell of the one before, whose figures arrive while the device works on this one."""
        asks = {
            "asks_to_save": self._yes if self._wants_to_save() else self._no,
            "asks_to_stop": self._no if self.stop.number is None else self._yes,
        }
        begun = self._update(step, batch, **self._scheduled(step), others=asks)
        self._catch_up()
        self._underway = begun

    def _catch_up(self) -> None:
        """Tell of the update that was begun last, if that has not been done."""
        update, self._underway = self._underway, None
        if update is None:
            return
        figures = update.figures.values()
        self._is_save_asked |= figures.pop("asks_to_save") > 0
        self._is_stop_asked |= figures.pop("asks_to_stop") > 0
        if not math.isfinite(figures["loss"]):
            self._refuse_loss(update)
        if math.isfinite(figures["grad_norm"]):
            self.skipped = 0
        elif not self.parts.scaler.is_enabled():
            self._refuse(update.step, "the gradients are not finite, though the loss of each utterance is")
        else:
            self.skipped += 1
            if self.skipped >= MOST_SKIPPED:
                self._refuse_skipped(update.step)
        times_ms = update.times_ms()
        if self._read_before is not None:
            times_ms["step"] = update.moments[0].ms_since(self._read_before.moments[0])
        self._read_before = update
        samples = self.parts.plan.samples_of(self._step_of_rest(update.step))
        self.samples += samples
        self._journal.add_step(update.step + 1, figures, samples, update.wait_s, times_ms, self._scheduled(update.step))

    def _wants_to_save(self) -> bool:
        """Whether it is time, by the clock of the first process."""
        minutes = self.config.save_minutes
        return self.parts.processes.is_first and 0 < minutes <= (time.monotonic() - self._saved_at) / 60

    def _is_save_due(self) -> bool:
        """The same on all processes."""
        interval = self.config.save_step_interval
        asked = self._is_save_asked or self._is_stop_asked
        return asked or (interval > 0 and self.step % interval == 0)

    def _end_if_asked(self) -> None:
        """After a state has been handed over: wait for its file, and end on all processes."""
        if self._is_stop_asked:
            processes = self.parts.processes
            processes.together(self._writer.close)
            number = max(processes.gather(self.stop.number or 0))
            num_steps = self.config.num_epochs * self.steps_per_epoch - self.shift
            raise Stopped(
                f"stopped by {signal.Signals(number).name} after step {self.step} of {num_steps}, which is saved in "
                f"{self.saved}; to go on: {os.environ.get(COMMAND, 'the same command')}",
                number,
            )

    def _count_time(self) -> None:
        now = time.monotonic()
        self.elapsed_s += now - self._counted_at
        self._counted_at = now

    def _scheduled(self, step: int) -> dict[str, float]:
        """What the schedules say of an update."""
        at = step + self.shift
        return {"margin": self.parts.margin(at), "learning_rate": self.parts.learning_rate(at)}

    def _refuse_loss(self, update: Underway) -> None:
        """Raise on every process, with the utterances of all."""
        processes = self.parts.processes
        keys = [self.parts.data.chunks.key(utterance) for utterance in update.utterance.tolist()]
        where = "" if processes.world_size == 1 else f" (process {processes.rank})"
        own = [f"{key}{where}" for key, finite in zip(keys, update.loss.isfinite().tolist(), strict=True) if not finite]
        bad = [key for part in processes.gather(own) for key in part]
        num_utterances = len(keys) * processes.world_size
        shown = f"{', '.join(bad[:8])}{' ...' if len(bad) > 8 else ''}"
        self._refuse(update.step, f"the loss of {len(bad)} of {num_utterances} utterances is not finite: {shown}")

    def _refuse_skipped(self, step: int) -> None:
        """Raise of a scaled loss whose gradients were not finite for too long, up to this step."""
        number = "all updates" if self.skipped > step else f"the last {counted(self.skipped, 'update', 'updates')}"
        scale = self.parts.scaler.get_scale()
        self._refuse(
            step,
            f"the gradients of {number} were not finite, though the loss was, and though it was scaled by less each "
            f"time, now by {scale:.2g}",
            "Train" if self.skipped >= MOST_SKIPPED else "Train for more steps, or",
        )

    def _refuse(self, step: int, found: str, remedy: str = "Check that audio, or train") -> None:
        saved = "nothing has been saved yet" if self.saved is None else f"the last state is in {self.saved}"
        raise NonFiniteLossError(
            f"step {step} (epoch {(step + self.shift) // self.steps_per_epoch + 1}): {found}. No update was made; "
            f"{saved}. {remedy} with a lower scheduler_args.initial_lr "
            f"({self.config.scheduler_args.initial_lr}), or enable_amp=false, into another --exp_dir: a training goes "
            "on with its own settings only"
        )

    def _samples_left(self) -> int:
        """Until the end of the training, on all processes."""
        plan = self.parts.plan
        whole_epochs = self.config.num_epochs - self.last_epoch - (self.rest is not None)
        of_this = 0 if self.rest is None else self.rest.length - self.rest.position
        return whole_epochs * len(plan) * plan.global_batch + of_this

    def _step_of_rest(self, step: int) -> int:
        """An update of the present epoch, counted from 0 over what the plan walks of it."""
        within = (step + self.shift) % self.steps_per_epoch
        return self.parts.plan.rest.steps - self.steps_per_epoch + within

    def _reinitialise_head(self) -> None:
        parts = self.parts
        # Statistics of batch norm are each process's own; those of the first are saved, and gone on with by all.
        parts.processes.take_from_first(parts.model.encoder.buffers())
        reinitialise_head(parts.model, parts.data, parts.plan, parts.processes)
        # Their momentum belongs to the old prototypes. Zero and not none: a fused optimiser has all momenta or no one.
        for value in parts.optimizer.state[parts.model.projection.weight].values():
            if isinstance(value, torch.Tensor):
                value.zero_()

    def _refuse_not_finite(self, epoch: int) -> None:
        """The last update of an epoch may have made weights that no loss was computed with yet."""
        checkpoint.refuse_not_finite(
            {"model": self.parts.model.checkpoint_state(), "optimizer": self.parts.optimizer.state_dict()},
            f"epoch {epoch}",
            "nothing of this epoch was saved; train with a lower scheduler_args.initial_lr "
            f"({self.config.scheduler_args.initial_lr}), or enable_amp=false, into another --exp_dir",
        )

    def _validate(self, epoch: int) -> None:
        """On the first process."""
        interval = self.config.valid_epoch_interval
        if self.validate is None or not interval or (epoch % interval and epoch != self.config.num_epochs):
            return
        if self.parts.processes.is_first:
            encoder = self.parts.model.encoder.eval()
            self._journal.add_validation(self.step, self.validate(encoder), self.elapsed_s)

    def _save(self, epoch: int | None = None) -> None:
        """Begin to save the state; where it is that at the end of ``epoch``, maybe its model, too."""
        config = self.config
        if epoch is not None and epoch % config.save_epoch_interval and epoch <= config.num_epochs - config.num_avg:
            epoch = None
        self._catch_up()
        self._read_before = None
        self._count_time()
        state = self.state()
        is_last = self.last_epoch == config.num_epochs
        self.parts.processes.together(
            lambda: self._writer.write(state, epoch=epoch, is_last=is_last) if self.parts.processes.is_first else None
        )
        self.saved = self.folder.state(self.step)
        self._saved_at = time.monotonic()
        self._is_save_asked = False

    def state(self) -> State:
        """Everything that resuming needs, as tensors and plain values.

        All processes call it together; what the first one gets is whole, with the prototypes of all classes.
        """
        parts = self.parts
        model, optimizer = parts.model.checkpoint_state(), parts.optimizer.state_dict()
        parts.model.change_class_rows(model, optimizer, parts.model.projection.partition.gather_classes)
        return {
            "epoch": self.last_epoch,
            "step": self.step,
            "schedule_step": self.schedule_step,
            "samples": self.samples,
            "skipped": self.skipped,
            "rest": self._rest(),
            "journal": self._journal.state(),
            "elapsed_s": self.elapsed_s,
            "world_size": parts.processes.world_size,
            "config": self.config.to_yaml(),
            "speakers": parts.data.speakers,
            "made_from": parts.made_from,
            "validation": parts.validation_digest,
            "model": model,
            "optimizer": optimizer,
            "scaler": parts.scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def _rest(self) -> list[int] | None:
        """What is left of the present epoch; None at its end."""
        if not self.schedule_step % self.steps_per_epoch:
            return None
        return list(self.parts.plan.rest_after(self._step_of_rest(self.step)))

    def resume(self, *, may_change_batch: bool = False) -> None:
        """Continue from the newest state, which the first process chooses.

        Args:
            may_change_batch: as :func:`check_same_run`.

        Raises:
            RecipeError: it is of another configuration, other data or another number of processes, or the processes did
                not read the same; on all of them.
        """
        parts, processes = self.parts, self.parts.processes
        path = processes.first_decides(lambda: newest_state(self.folder))
        state, content = processes.together(lambda: self._read_state(path, may_change_batch))
        divides = parts.model.projection.partition.world_size > 1
        place = processes.together(lambda: place_of(state, parts.plan, divides_classes=divides))
        processes.agree({"epoch": state["epoch"], "step": place.step, "content": content}, str(path))
        if state.get("validation") != parts.validation_digest:
            logger.warning("the validation set has changed: the log's earlier checks are of another one")
        parts.model.change_class_rows(state["model"], state["optimizer"], parts.model.projection.partition.own_classes)
        parts.model.load_checkpoint_state(state["model"])
        parts.optimizer.load_state_dict(host_copy(state["optimizer"]))  # it keeps what it is given
        parts.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.step, self.shift, self.rest = place.step, place.schedule_step - place.step, place.rest
        # An earlier version did not count these.
        self.samples = state.get("samples", place.schedule_step * parts.plan.global_batch)
        self.skipped = state.get("skipped", 0)
        self.elapsed_s = state["elapsed_s"]
        self.saved = path
        self._journal_state = state["journal"] if self.rest else None
        within = self.schedule_step % self.steps_per_epoch
        logger.info(
            "resumed after epoch %d of %d%s (%s)",
            self.last_epoch,
            self.config.num_epochs,
            f" and {counted(within, 'step', 'steps')} of {self.steps_per_epoch}" if self.rest else "",
            path,
        )

    def _read_state(self, path: Path, may_change_batch: bool) -> tuple[State, Checksum]:
        state, parts = read_state(path), self.parts
        check_same_run(
            state,
            self.config,
            speakers=parts.data.speakers,
            sources=parts.made_from,
            world_size=parts.processes.world_size,
            path=path,
            run=self.folder.path,
            may_change_batch=may_change_batch,
        )
        refuse_unfit(state, parts.model, parts.optimizer, path, mended(path))
        return state, checksum_of(path)
