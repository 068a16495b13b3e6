"""The schema: WeSpeaker's keys as frozen dataclasses, with types, ranges and a docstring for each.

Its parts are in ``data``, ``model``, ``loss`` and ``schedule``. Keys that this project accepts for the sake of
WeSpeaker's files but does not use say so.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.config.data import DataloaderArgs, DatasetArgs
from wespeaker_qm.config.fields import OWN, STRICT, Count, CountOrNone, InconsistentError, without_own_defaults
from wespeaker_qm.config.loss import ProjectionArgs, QMarginArgs
from wespeaker_qm.config.model import MODELS, AnyModelArgs, ModelName, ResNetArgs
from wespeaker_qm.config.schedule import MarginUpdate, OptimizerArgs, SchedulerArgs
from wespeaker_qm.utils.checksums import write_checked_text
from wespeaker_qm.utils.yaml_files import dump_yaml

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""PyTorch takes no larger one."""

Minutes = Annotated[float, Field(ge=0, le=10**6)]
"""0 = never."""

Steps = tuple[CountOrNone, Count]
"""The first, and the one after the last."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossArgs:
    """WeSpeaker's arguments of the criterion; here the projection head is the loss, so there are none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Everything that decides what is trained, except the data.

    Raises:
        pydantic.ValidationError: a value of the wrong type or range, or keys at odds (``load_config`` turns it into
            a RecipeError that names the file).
    """

    exp_dir: str | None = None
    """Accepted for compatibility, without effect: run.sh --exp_dir decides."""
    gpus: str | None = None
    """Accepted for compatibility: run.sh --gpus and CUDA_VISIBLE_DEVICES decide. Without them, training refuses GPUs
    that are not there, unless device is cpu."""
    device: Annotated[Literal["auto", "cpu", "cuda"], OWN] = "auto"
    """Where to compute; auto = the GPU if there is one. Not in WeSpeaker."""
    num_threads: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, OWN] = None
    """CPU threads of a training process; null = PyTorch's choice. Not in WeSpeaker."""
    channels_last: Annotated[bool, OWN] = False
    """Keep activations channels-last, which is often faster; refused where the network does not bear it on a CPU.
    Not in WeSpeaker."""
    compile: Annotated[bool, OWN] = False
    """Compile the network with torch.compile: for GPUs; takes minutes at the start. Not in WeSpeaker."""
    num_avg: Count = 10
    """How many of the last checkpoints are averaged; each of the last num_avg epochs is saved."""
    whiten: Annotated[bool, OWN] = False
    """Whiten the embeddings of the average within the training classes (WCCN), by its last layer. Not in WeSpeaker."""
    enable_amp: bool = False
    """Automatic mixed precision; the loss always computes in float32."""
    amp_dtype: Annotated[Literal["fp16", "bf16"], OWN] = "fp16"
    """Type that enable_amp computes in; only fp16 scales the loss. Not in WeSpeaker (always fp16)."""

    seed: Seed = 42
    """Seed of initialisation, order and augmentation."""
    num_epochs: Count = 150
    """Epochs to train."""
    save_epoch_interval: Count = 5
    """Save the model every so many epochs (and each of the last num_avg)."""
    save_step_interval: Annotated[CountOrNone, OWN] = 0
    """Write a state to go on from every so many updates, beside the one at the end of each epoch; 0 = off. Not in
    WeSpeaker."""
    save_minutes: Annotated[Minutes, OWN] = 10.0
    """Write such a state every so many minutes; 0 = off. Not in WeSpeaker."""
    log_batch_interval: Count = 100
    """Write a log line every so many batches."""
    profile: Annotated[Steps | None, OWN] = None
    """[start, stop]: trace these steps, counted from 0 over the training and without the last, into ``profile/`` of the
    run's folder, with PyTorch's profiler; null = none. Not in WeSpeaker."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], OWN] = ("tensorboard",)
    """Who is told the figures of the log; wandb (Weights & Biases) and mlflow need the extra trackers. Not in
    WeSpeaker."""
    valid_epoch_interval: Annotated[CountOrNone, OWN] = 5
    """Held-out verification check (EER, TAR@FAR) every so many epochs; 0 = off. Not in WeSpeaker."""

    dataloader_args: DataloaderArgs = dataclasses.field(default_factory=DataloaderArgs)
    """Batches."""
    dataset_args: DatasetArgs = dataclasses.field(default_factory=DatasetArgs)
    """Samples, features and augmentation."""

    model: ModelName = "ResNet34"
    """The speaker network."""
    model_init: Annotated[str, Field(pattern=r"\S")] | None = None
    """Checkpoint that the speaker network starts from: ours, WeSpeaker's, a state in ``resume/``; null = random."""
    model_args: AnyModelArgs = dataclasses.field(default_factory=ResNetArgs)
    """Sizes of the network."""
    projection_args: ProjectionArgs = dataclasses.field(
        default_factory=lambda: QMarginArgs(project_type="q_margin", scale=10.0, alpha=1.5)
    )
    """The loss; its margin is margin_update.final_margin."""

    margin_scheduler: Literal["MarginScheduler"] = "MarginScheduler"
    """Name of the margin's schedule; there is one."""
    margin_update: MarginUpdate = dataclasses.field(default_factory=MarginUpdate)
    """The margin's schedule."""
    do_lm: Literal[False] = False
    """Accepted for compatibility: large-margin fine-tuning is not offered."""
    loss: Literal["CrossEntropyLoss"] = "CrossEntropyLoss"
    """Accepted for compatibility, without effect: projection_args.project_type chooses the loss."""
    loss_args: LossArgs = dataclasses.field(default_factory=LossArgs)
    """Accepted for compatibility: must be empty."""

    optimizer: Literal["SGD"] = "SGD"
    """The optimiser."""
    optimizer_args: OptimizerArgs = dataclasses.field(default_factory=OptimizerArgs)
    """Its arguments."""
    scheduler: Literal["ExponentialDecrease"] = "ExponentialDecrease"
    """Name of the learning rate's schedule; there is one."""
    scheduler_args: SchedulerArgs = dataclasses.field(default_factory=SchedulerArgs)
    """The learning rate's schedule."""

    def __post_init__(self) -> None:
        if self.model_args.feat_dim != self.dataset_args.fbank_args.num_mel_bins:
            raise InconsistentError(
                ["model_args.feat_dim", "dataset_args.fbank_args.num_mel_bins"],
                f"found {self.model_args.feat_dim}, expected dataset_args.fbank_args.num_mel_bins "
                f"({self.dataset_args.fbank_args.num_mel_bins})",
            )
        if self.num_avg > self.num_epochs:
            raise InconsistentError(
                ["num_avg", "num_epochs"], f"found {self.num_avg}, expected at most num_epochs ({self.num_epochs})"
            )
        if self.profile is not None and self.profile[0] >= self.profile[1]:
            raise InconsistentError(
                ["profile"],
                f"found {list(self.profile)}, expected the first step and a larger one, before which it ends",
            )
        if not isinstance(self.model_args, MODELS[self.model]):
            raise InconsistentError(["model_args"], f"found {self.model_args}, expected the arguments of {self.model}")
        fault = self.model_args.cpu_channels_last_fault()
        for key in ("channels_last", "compile"):  # the compiler chooses channels-last by itself
            if getattr(self, key) and self.device != "cuda" and fault is not None:
                name, expected = fault
                raise InconsistentError(
                    [f"model_args.{name}", key],
                    f"found {getattr(self.model_args, name)} with {key} true, expected {expected}, or {key} to false",
                )
        loss, margin = self.projection_args.definition, self.margin_update
        if loss.margin_type == "none" and (margin.initial_margin or margin.final_margin):
            name = self.projection_args.project_type
            raise InconsistentError(
                ["margin_update.final_margin", "projection_args.project_type"],
                f"found {margin.final_margin} with project_type {name}, expected 0: {name} has no margin; "
                "set initial_margin and final_margin to 0 or choose add_margin",
            )
        if loss.reinit_epoch is not None and loss.reinit_epoch > self.num_epochs:
            raise InconsistentError(
                ["projection_args.reinit_epoch", "num_epochs"],
                f"found {loss.reinit_epoch}, expected at most num_epochs ({self.num_epochs})",
            )

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, which ``load_config`` reads back to an equal Config."""
        return dump_yaml(dataclasses.asdict(self))

    def save(self, path: Path | str) -> None:
        """Write the configuration to ``path`` atomically, as ``load_config`` and WeSpeaker's programs read it.

        Keys that WeSpeaker does not know are left out where they are at their default.
        """
        write_checked_text(path, dump_yaml(without_own_defaults(self)))
