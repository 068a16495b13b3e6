"""The training loop.

::

    BatchPlan -> loader with front end -> encoder -> head -> mean loss -> SGD
       margin(step) ----------------------------^         learning rate(step) ^

Everything random is a function of (seed, epoch, position), schedules are functions of the step, and the state after an
epoch is saved whole: a run that is killed and resumed ends with the weights of one that was not.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.models.encoder import SpeakerEncoder
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.build import TrainingParts
from wespeaker_qm.train.figures import batch_figures
from wespeaker_qm.train.log import Journal
from wespeaker_qm.train.reinit import reinitialise_head
from wespeaker_qm.train.resume import read_state
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder

logger = logging.getLogger(__name__)

Validation = Callable[[SpeakerEncoder], dict[str, float | None]]
"""Figures of a held-out verification check of the network, which is in evaluation mode."""


class NonFiniteLossError(RecipeError):
    """The loss of a batch is NaN or infinite; nothing has been updated with it."""


class Trainer:
    """A run: its parts, and how far it is.

    Args:
        config: of the run.
        parts: of the training; see :func:`wespeaker_qm.train.build.build_training`.
        folder: where checkpoints and logs go.
        validate: the held-out check, or None.
    """

    def __init__(
        self, config: Config, parts: TrainingParts, folder: RunFolder, validate: Validation | None = None
    ) -> None:
        self.config = config
        self.parts = parts
        self.folder = folder
        self.validate = validate
        self.last_epoch = 0
        self.elapsed_s = 0.0
        self.steps_per_epoch = len(parts.plan)
        self.network: torch.nn.Module = parts.model

    def run(self) -> None:
        """Train the epochs that are left."""
        parts, config = self.parts, self.config
        logger.info(
            "training %s on %s: %d speakers, %d classes, %d utterances, %d steps of %d x %d samples an epoch",
            config.model,
            parts.processes.device,
            len(parts.data.speakers),
            parts.data.num_classes,
            len(parts.data.labels),
            self.steps_per_epoch,
            parts.processes.world_size,
            config.dataloader_args.batch_size,
        )
        self.network = parts.model.across(parts.processes)
        with Journal(
            self.folder,
            config,
            parts.processes,
            steps_per_epoch=self.steps_per_epoch,
            last_epoch=self.last_epoch,
        ) as journal:
            while self.last_epoch < config.num_epochs:
                self._run_epoch(self.last_epoch + 1, journal)

    def _run_epoch(self, epoch: int, journal: Journal) -> None:
        started = time.monotonic()
        self.parts.plan.set_epoch(epoch)
        if epoch == self.parts.reinit_epoch:
            self._reinitialise_head()
        self.network.train()
        journal.start_epoch(epoch)
        step = (epoch - 1) * self.steps_per_epoch
        for batch in self.parts.loader:
            figures = self._step(step, batch)
            step += 1
            journal.add_step(step, figures, batch.wait_s, self._scheduled(step - 1))
        self.last_epoch = epoch
        self.elapsed_s += time.monotonic() - started
        journal.end_epoch(step, self._scheduled(step - 1), self.elapsed_s)
        state = self.state()
        self.parts.processes.together(lambda: self._finish_epoch(epoch, step, journal, state))

    def _step(self, step: int, batch: TrainingBatch) -> dict[str, float]:
        """One update; what `batch_figures` says of the batch before it."""
        optimizer, scaler = self.parts.optimizer, self.parts.scaler
        for group in optimizer.param_groups:
            group["lr"] = self.parts.learning_rate(step)
        output: LinearLoss = self.network(batch.features, batch.label, self.parts.margin(step))
        loss = output.loss.mean()
        figures = batch_figures(output, self.parts.data.num_classes, self.parts.processes)
        if not math.isfinite(figures["loss"]):
            self._refuse(step, batch, output.loss)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return figures

    def _scheduled(self, step: int) -> dict[str, float]:
        return {"margin": self.parts.margin(step), "learning_rate": self.parts.learning_rate(step)}

    def _refuse(self, step: int, batch: TrainingBatch, loss: torch.Tensor) -> None:
        """Raise on every process, with the utterances of all."""
        processes = self.parts.processes
        keys = [self.parts.data.chunks.key(utterance) for utterance in batch.utterance.tolist()]
        where = "" if processes.world_size == 1 else f" (process {processes.rank})"
        own = [f"{key}{where}" for key, finite in zip(keys, loss.isfinite().tolist(), strict=True) if not finite]
        bad = [key for part in processes.gather(own) for key in part]
        num_utterances = len(keys) * processes.world_size
        saved = f"epoch {self.last_epoch}, the last finished one, is in {self.folder.resume}"
        raise NonFiniteLossError(
            f"step {step} (epoch {step // self.steps_per_epoch + 1}): the loss of {len(bad)} of {num_utterances} "
            f"utterances is not finite: {', '.join(bad[:8])}{' ...' if len(bad) > 8 else ''}. No update was made; "
            f"{saved if self.last_epoch else 'no epoch has been finished'}. Check that audio, or train with a lower "
            f"scheduler_args.initial_lr ({self.config.scheduler_args.initial_lr}), or enable_amp=false, into another "
            "--exp_dir: a training goes on with its own settings only"
        )

    def _reinitialise_head(self) -> None:
        parts = self.parts
        reinitialise_head(parts.model, parts.data, parts.plan, parts.processes)
        # Their momentum belongs to the old prototypes.
        parts.optimizer.state[parts.model.projection.weight].clear()

    def _finish_epoch(self, epoch: int, step: int, journal: Journal, state: dict[str, Any]) -> None:
        """On the first process: check and save."""
        if self.parts.processes.is_first:
            self._refuse_not_finite(epoch, state)
            self._validate(epoch, step, journal)
            self._save(epoch, state)

    def _refuse_not_finite(self, epoch: int, state: dict[str, Any]) -> None:
        """The last update of an epoch may have made weights that no loss was computed with yet."""
        checkpoint.refuse_not_finite(
            {name: state[name] for name in ("model", "optimizer")},
            f"epoch {epoch}",
            "nothing of this epoch was saved; train with a lower scheduler_args.initial_lr "
            f"({self.config.scheduler_args.initial_lr}), or enable_amp=false, into another --exp_dir",
        )

    def _validate(self, epoch: int, step: int, journal: Journal) -> None:
        interval = self.config.valid_epoch_interval
        if self.validate is None or not interval or (epoch % interval and epoch != self.config.num_epochs):
            return
        encoder = self.parts.model.encoder.eval()
        journal.add_validation(step, self.validate(encoder), self.elapsed_s)

    def _save(self, epoch: int, state: dict[str, Any]) -> None:
        config = self.config
        if epoch % config.save_epoch_interval == 0 or epoch > config.num_epochs - config.num_avg:
            checkpoint.save(state["model"], self.folder.model(epoch))
        # Last: a resume file that says "epoch done" must find that epoch's model beside it.
        checkpoint.save(state, self.folder.resume)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs, as tensors and plain values.

        All processes call it together; what the first one gets is whole, with the prototypes of all classes.
        """
        parts = self.parts
        model, optimizer = parts.model.checkpoint_state(), parts.optimizer.state_dict()
        parts.model.change_class_rows(model, optimizer, parts.model.projection.partition.gather_classes)
        return {
            "epoch": self.last_epoch,
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

    def resume(self) -> None:
        """Continue from ``resume.pt``.

        Raises:
            RecipeError: it is of another configuration, other data or another number of processes, or the processes did
                not read the same; on all of them.
        """
        parts, processes = self.parts, self.parts.processes
        path = self.folder.resume
        state = processes.together(
            lambda: read_state(
                path,
                self.config,
                speakers=parts.data.speakers,
                sources=parts.made_from,
                world_size=processes.world_size,
            )
        )
        processes.agree({"epoch": state["epoch"], "content": checkpoint.state_digest(state)}, str(path))
        if state.get("validation") != parts.validation_digest:
            logger.warning("the validation set has changed: the log's earlier checks are of another one")
        parts.model.change_class_rows(state["model"], state["optimizer"], parts.model.projection.partition.own_classes)
        parts.model.load_checkpoint_state(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.last_epoch = state["epoch"]
        self.elapsed_s = state["elapsed_s"]
        logger.info("resumed after epoch %d of %d (%s)", self.last_epoch, self.config.num_epochs, path)
