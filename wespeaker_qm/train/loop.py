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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch, TrainingLoader
from wespeaker_qm.dataset.plan import BatchPlan
from wespeaker_qm.dataset.training_set import open_training_set
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.train import build, checkpoint
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.log import TrainingLog, progress_bar
from wespeaker_qm.train.reinit import reinitialise_head
from wespeaker_qm.train.resume import check_same_run, made_from, validation_digest
from wespeaker_qm.utils.errors import RecipeError

logger = logging.getLogger(__name__)

Validation = Callable[[ResNet], dict[str, float | None]]
"""Figures of a held-out verification check of the network, which is in evaluation mode."""

ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))

_PROTOTYPES = "projection.weight"  # of the encoder that holds the head
_STATE = ("epoch", "elapsed_s", "world_size", "config", "speakers", "model", "optimizer", "scaler", "rng")
"""What every version has written into resume.pt."""


class NonFiniteLossError(RecipeError):
    """The loss of a batch is NaN or infinite; nothing has been updated with it."""


class EncoderWithHead(nn.Module):
    """The network as it trains: the encoder holds the head as ``projection``, so that names are WeSpeaker's."""

    def __init__(self, encoder: ResNet, amp_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.amp_dtype = amp_dtype

    def forward(self, features: torch.Tensor, target: torch.Tensor, margin: float) -> LinearLoss:
        """Loss of features (B, T, F) for targets (B,), in float32 even under autocast."""
        with torch.autocast(features.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            output: LinearLoss = self.encoder.get_submodule("projection")(self.encoder(features), target, margin)
        return output


def batch_figures(output: LinearLoss, num_classes: int, processes: Processes = ALONE) -> dict[str, float]:
    """Means over the batch of all processes, moved from the device at once; one that is not finite is so on all.

    loss; accuracy: share of samples whose own class is nearest. For alpha > 1 also support: classes with a posterior
    above 0; candidate_density: share of the classes that the head looked at closely; solved and dropped: shares of
    samples whose own class has all of the posterior, or none.
    """
    figures = {"loss": output.loss, "accuracy": output.correct}
    if output.sparsity is not None:
        support, candidates, target_posterior = output.sparsity
        figures |= {"support": support, "candidate_density": candidates / num_classes}
        figures |= {"solved": target_posterior == 1, "dropped": target_posterior == 0}
    means = torch.stack([figure.detach().double().mean() for figure in figures.values()])
    means = processes.sum(means) / processes.world_size
    return dict(zip(figures, means.tolist(), strict=True))


class Means:
    """Running means of a batch's figures, and the clock."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.samples = 0
        self.wait_s = 0.0
        self.start = time.monotonic()

    def add(self, figures: dict[str, float], samples: int, wait_s: float) -> None:
        """Count a batch, whose figures are means over its samples."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        self.samples += samples
        self.wait_s += wait_s

    def values(self, world_size: int) -> dict[str, float]:
        """The means, samples a second over all processes, and seconds waited for data."""
        elapsed_s = max(time.monotonic() - self.start, 1e-9)
        return {
            **{name: total / self.samples for name, total in self.sums.items()},
            "samples_per_s": world_size * self.samples / elapsed_s,
            "wait_s": self.wait_s,
        }


class Trainer:
    """A run: network, data, schedules and state.

    Args:
        config: of the run.
        data_dir: prepared and packed corpus, e.g. ``data/mini``.
        exp_dir: where checkpoints and logs go.
        processes: this process among those that train.
        validate: the held-out check, or None.
    """

    def __init__(
        self, config: Config, data_dir: Path, exp_dir: Path, processes: Processes, validate: Validation | None
    ) -> None:
        self.config = config
        self.exp_dir = exp_dir
        self.processes = processes
        self.validate = validate
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)

        device = processes.device
        fbank = build.build_fbank(config, dither=config.dataset_args.fbank_args.dither)
        self.data = open_training_set(config, data_dir, fbank)
        self.made_from = made_from(config, data_dir)
        self.validation = validation_digest(data_dir)
        loading = config.dataloader_args
        self.plan = BatchPlan(
            self.data.labels,
            sampler=config.dataset_args.sampler,
            samples_per_epoch=config.dataset_args.sample_num_per_epoch,
            batch_size=loading.batch_size,
            seed=config.seed,
            rank=processes.rank,
            world_size=processes.world_size,
            shards=self.data.shards,
            shard_window=config.dataset_args.shuffle_args.shard_window,
        )
        self.steps_per_epoch = len(self.plan)
        self.loader = TrainingLoader(
            self.data.chunks,
            self.data.frontend,
            self.plan,
            device=device,
            frontend_on=loading.frontend,
            num_workers=loading.num_workers,
            prefetch_factor=loading.prefetch_factor,
            pin_memory=loading.pin_memory,
        )

        torch.manual_seed(config.seed)
        self.encoder = build.build_encoder(config)
        self.shards = build.build_shards(config, self.data.num_classes, processes)
        self.head = build.build_head(config, self.shards)
        self.encoder.add_module("projection", self.head)
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.encoder = self.encoder.to(device).to(memory_format=memory_format)
        if config.compile:
            self.encoder.compile()  # in place: the names of its parameters stay
        self.model: nn.Module = EncoderWithHead(self.encoder, build.amp_dtype(config))
        self.optimizer = build.build_optimizer(config, list(self.encoder.parameters()))
        self.scaler = build.build_scaler(config, self.shards, processes)
        self.learning_rate = build.build_learning_rate(config, self.steps_per_epoch, processes.world_size)
        self.margin = build.build_margin(config, self.steps_per_epoch)
        self.reinit_epoch = build.reinit_epoch(config)
        self.last_epoch = 0
        self.elapsed_s = 0.0

    @property
    def samples_per_epoch(self) -> int:
        """Samples an epoch over all processes."""
        return self.steps_per_epoch * self.config.dataloader_args.batch_size * self.processes.world_size

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs, as tensors and plain values.

        All processes call it together; what the first one gets is whole, with the prototypes of all classes.
        """
        model, optimizer = self.encoder.state_dict(), self.optimizer.state_dict()
        self._change_class_rows(model, optimizer, self.shards.gather_classes)
        return {
            "epoch": self.last_epoch,
            "elapsed_s": self.elapsed_s,
            "world_size": self.processes.world_size,
            "config": self.config.to_yaml(),
            "speakers": self.data.speakers,
            "made_from": self.made_from,
            "validation": self.validation,
            "model": model,
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def resume(self) -> None:
        """Continue from ``models/resume.pt``.

        Raises:
            RecipeError: it is of another configuration, other data or another number of processes, or the processes did
                not read the same; on all of them.
        """
        path = checkpoint.resume_path(self.exp_dir)
        state = self.processes.together(lambda: self._read_state(path))
        self.processes.agree({"epoch": state["epoch"], "content": checkpoint.state_digest(state)}, str(path))
        if state.get("validation") != self.validation:
            logger.warning("the validation set has changed: the log's earlier checks are of another one")
        self._change_class_rows(state["model"], state["optimizer"], self.shards.own_classes)
        self.encoder.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        self.last_epoch = state["epoch"]
        self.elapsed_s = state["elapsed_s"]
        logger.info("resumed after epoch %d of %d (%s)", self.last_epoch, self.config.num_epochs, path)

    def _read_state(self, path: Path) -> dict[str, Any]:
        state: dict[str, Any] = checkpoint.load(path)
        missing = [name for name in _STATE if not isinstance(state, dict) or name not in state]
        if missing:
            raise RecipeError(
                f"{path}: found no {', '.join(missing)} in it, expected the state of a training, which a file of "
                "weights alone (model_<epoch>.pt) is not; put back what the training wrote, or delete the file and "
                ".done/train to train from the first epoch"
            )
        check_same_run(state, self.config, self.data.speakers, self.made_from, self.processes.world_size, path)
        return state

    def _change_class_rows(
        self,
        model: checkpoint.State,
        optimizer: dict[str, Any],
        change: Callable[[torch.Tensor], torch.Tensor | None],
    ) -> None:
        """Apply ``change`` to what two state_dicts have a row of for each class: the prototypes and their momentum."""
        changed: dict[str, Any] = model
        changed[_PROTOTYPES] = change(model[_PROTOTYPES])
        index = [name for name, _ in self.encoder.named_parameters()].index(_PROTOTYPES)
        # A new dictionary, because the optimiser goes on with the one that it handed out.
        optimizer["state"][index] = {
            name: change(value) if isinstance(value, torch.Tensor) else value
            for name, value in optimizer["state"].get(index, {}).items()
        }

    def run(self) -> None:
        """Train the epochs that are left."""
        processes = self.processes
        if processes.world_size > 1:
            if self.shards.world_size > 1:  # every process has other prototypes, whose gradients are whole already
                DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                    self.model, [f"encoder.{_PROTOTYPES}"]
                )
            self.model = DistributedDataParallel(
                self.model, device_ids=[processes.device] if processes.device.type == "cuda" else None
            )
        logger.info(
            "training %s on %s: %d speakers, %d classes, %d utterances, %d steps of %d x %d samples an epoch",
            self.config.model,
            processes.device,
            len(self.data.speakers),
            self.data.num_classes,
            len(self.data.labels),
            self.steps_per_epoch,
            processes.world_size,
            self.config.dataloader_args.batch_size,
        )
        total = self.config.num_epochs * self.samples_per_epoch
        done = self.last_epoch * self.samples_per_epoch
        with (
            TrainingLog(self.exp_dir, self.last_epoch) if processes.is_first else nullcontext() as log,
            progress_bar(total, done, enabled=processes.is_first) as bar,
        ):
            while self.last_epoch < self.config.num_epochs:
                self._run_epoch(self.last_epoch + 1, log, bar)

    def _run_epoch(self, epoch: int, log: TrainingLog | None, bar: Any) -> None:
        started = time.monotonic()
        self.plan.set_epoch(epoch)
        if epoch == self.reinit_epoch:
            self._reinitialise_head()
        self.model.train()
        over_epoch, over_interval = Means(), Means()
        step = (epoch - 1) * self.steps_per_epoch
        for batch in self.loader:
            figures = self._step(step, batch)
            step += 1
            for means in (over_epoch, over_interval):
                means.add(figures, len(batch.label), batch.wait_s)
            shown = over_interval.values(self.processes.world_size)
            bar.set_postfix(
                epoch=epoch,
                loss=f"{shown['loss']:.3f}",
                acc=f"{shown['accuracy']:.3f}",
                **{name: f"{shown[name]:.3g}" for name in ("support", "solved") if name in shown},
                margin=f"{self.margin(step - 1):.3f}",
                lr=f"{self.learning_rate(step - 1):.2g}",
                waited=f"{over_epoch.wait_s:.1f}s",
                refresh=False,
            )
            bar.update(len(batch.label) * self.processes.world_size)
            if log is not None and step % self.config.log_batch_interval == 0:
                log.write("step", epoch=epoch, step=step, **shown, **self._scheduled(step - 1))
                over_interval = Means()
        self.last_epoch = epoch
        self.elapsed_s += time.monotonic() - started
        if log is not None:
            values = over_epoch.values(self.processes.world_size)
            seen = {"samples": epoch * self.samples_per_epoch, "minutes": self.elapsed_s / 60}
            log.write("epoch", epoch=epoch, step=step, **values, **self._scheduled(step - 1), **seen)
            if epoch == self.config.num_epochs and values.get("dropped", 0.0) > 1 / 2:
                logger.warning(
                    "projection_args: in the last epoch %.0f %% of the samples gave their own class a posterior of "
                    "exactly 0: the loss is too sparse for them; lower alpha or scale, or train for longer",
                    100 * values["dropped"],
                )
        state = self.state()
        self.processes.together(lambda: self._finish_epoch(epoch, step, log, state))

    def _step(self, step: int, batch: TrainingBatch) -> dict[str, float]:
        """One update; what `batch_figures` says of the batch before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        output: LinearLoss = self.model(batch.features, batch.label, self.margin(step))
        loss = output.loss.mean()
        figures = batch_figures(output, self.data.num_classes, self.processes)
        if not math.isfinite(figures["loss"]):
            self._refuse(step, batch, output.loss)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return figures

    def _refuse(self, step: int, batch: TrainingBatch, loss: torch.Tensor) -> None:
        """Raise on every process, with the utterances of all."""
        keys = [self.data.chunks.key(utterance) for utterance in batch.utterance.tolist()]
        where = "" if self.processes.world_size == 1 else f" (process {self.processes.rank})"
        own = [f"{key}{where}" for key, finite in zip(keys, loss.isfinite().tolist(), strict=True) if not finite]
        bad = [key for part in self.processes.gather(own) for key in part]
        num_utterances = len(keys) * self.processes.world_size
        raise NonFiniteLossError(
            f"step {step} (epoch {step // self.steps_per_epoch + 1}): the loss of {len(bad)} of {num_utterances} "
            f"utterances is not finite: {', '.join(bad[:8])}{' ...' if len(bad) > 8 else ''}. No update was made; the "
            f"last finished epoch is in {checkpoint.resume_path(self.exp_dir)}. Check that audio, lower "
            f"scheduler_args.initial_lr ({self.config.scheduler_args.initial_lr}), or set enable_amp=false"
        )

    def _scheduled(self, step: int) -> dict[str, float]:
        return {"margin": self.margin(step), "learning_rate": self.learning_rate(step)}

    def _reinitialise_head(self) -> None:
        reinitialise_head(self.encoder, self.head, self.data.chunks, self.data.frontend, self.plan, self.processes)
        # Momentum points from the old prototypes.
        self.optimizer.state[self.head.weight].clear()

    def _finish_epoch(self, epoch: int, step: int, log: TrainingLog | None, state: dict[str, Any]) -> None:
        """On the first process: check and save."""
        if log is not None:
            self._validate(epoch, step, log)
            self._save(epoch, state)

    def _validate(self, epoch: int, step: int, log: TrainingLog) -> None:
        interval = self.config.valid_epoch_interval
        if self.validate is None or not interval or (epoch % interval and epoch != self.config.num_epochs):
            return
        self.encoder.eval()
        figures = self.validate(self.encoder)
        log.write("valid", epoch=epoch, step=step, minutes=self.elapsed_s / 60, **figures)
        shown = ", ".join(
            f"{name} {'not measurable' if value is None else f'{100 * value:.2f} %'}" for name, value in figures.items()
        )
        logger.info("epoch %d: held-out verification %s", epoch, shown)

    def _save(self, epoch: int, state: dict[str, Any]) -> None:
        config = self.config
        if epoch % config.save_epoch_interval == 0 or epoch > config.num_epochs - config.num_avg:
            checkpoint.save(state["model"], checkpoint.model_path(self.exp_dir, epoch))
        # Last: a resume file that says "epoch done" must find that epoch's model beside it.
        checkpoint.save(state, checkpoint.resume_path(self.exp_dir))
