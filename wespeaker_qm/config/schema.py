"""The schema: WeSpeaker's keys as frozen dataclasses, with types, ranges and a docstring for each.

Keys that this project accepts for the sake of WeSpeaker's files but does not use say so.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.utils.checksums import write_checked_text

Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate."""
Margin = Annotated[float, Field(ge=0, le=1)]
Alpha = Annotated[float, Field(ge=1, le=2)]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
Readers = Annotated[int, Field(ge=0, le=4096)]
"""Processes that read ahead."""
Milliseconds = Annotated[int, Field(ge=1, le=1000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""PyTorch takes no larger one."""

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class InconsistentError(ValueError):
    """Keys that are fine one by one but not together.

    Args:
        keys: the keys at odds, relative to the dataclass that raises; the first is the one to blame.
        message: what was found and what is expected.
    """

    def __init__(self, keys: Sequence[str], message: str) -> None:
        super().__init__(f"{keys[0]}: {message}")
        self.keys = tuple(keys)
        self.message = message


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataloaderArgs:
    """How batches are fetched."""

    batch_size: Count = 128
    """Samples a batch and process (GPU)."""
    num_workers: Readers = 16
    """Loader processes for each training process; 0 = fetch in the training process. Never changes the result."""
    pin_memory: bool = True
    """Fetch into page-locked memory: faster copies to a GPU."""
    prefetch_factor: Count = 8
    """Batches that each loader process fetches ahead; without effect when num_workers is 0."""
    frontend: Literal["auto", "device", "worker"] = "auto"
    """Where augmentation and features are computed: in the training process on its device, or by the loader processes,
    which otherwise only read; auto = worker where the device is the CPU and num_workers is not 0. Not in WeSpeaker."""
    drop_last: Literal[True] = True
    """Accepted for compatibility: an epoch is always floor(samples / (processes * batch_size)) full batches."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShuffleArgs:
    """The order of an epoch. WeSpeaker's shuffle buffer is not needed where access is random."""

    shuffle_size: Count = 2500
    """Accepted for compatibility, without effect: the whole epoch is permuted, not a buffer."""
    shard_window: CountOrNone = 0
    """0: permute the whole epoch. N: permute the shards, and the utterances of N shards at a time: reading stays within
    N files, for slow or remote disks. Needs sampler utterance. Not in WeSpeaker."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FilterArgs:
    """Which utterances are too short to train on."""

    min_num_frames: CountOrNone = 100
    """Utterances with fewer frames than this are left out of training."""
    max_num_frames: Count = 800
    """Accepted for compatibility, without effect: a chunk is read directly from any place of a longer utterance."""

    def __post_init__(self) -> None:
        if self.min_num_frames > self.max_num_frames:
            raise InconsistentError(
                ["min_num_frames", "max_num_frames"],
                f"found {self.min_num_frames}, expected at most max_num_frames ({self.max_num_frames})",
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FbankArgs:
    """Kaldi's log mel filter bank."""

    num_mel_bins: Annotated[int, Field(ge=4, le=512)] = 80
    """Mel bands; equals model_args.feat_dim."""
    frame_shift: Milliseconds = 10
    """Milliseconds from one frame to the next."""
    frame_length: Milliseconds = 25
    """Milliseconds in a frame."""
    dither: Annotated[float, Field(ge=0, le=32768)] = 1.0
    """Standard deviation of the noise added to 16-bit samples in training; evaluation always uses 0."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpecAugArgs:
    """Masks on the training features, used when dataset_args.spec_aug is true."""

    num_t_mask: CountOrNone = 1
    """Time masks a sample."""
    num_f_mask: CountOrNone = 1
    """Frequency masks a sample."""
    max_t: Count = 10
    """Widest time mask, in frames."""
    max_f: Count = 8
    """Widest frequency mask, in mel bins."""
    prob: Probability = 0.6
    """Probability that a sample is masked at all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetArgs:
    """What is drawn in an epoch and what is done to it."""

    sample_num_per_epoch: CountOrNone = 0
    """Samples an epoch over all processes; 0 = as many as there are training utterances."""
    sampler: Literal["utterance", "speaker_balanced"] = "utterance"
    """utterance: a permutation of the utterances; speaker_balanced: every speaker equally often. Not in WeSpeaker."""
    shuffle: Literal[True] = True
    """Accepted for compatibility: training order is always shuffled, by (seed, epoch)."""
    shuffle_args: ShuffleArgs = dataclasses.field(default_factory=ShuffleArgs)
    """shuffle_size is accepted without effect."""
    filter: bool = True
    """Leave out utterances shorter than filter_args.min_num_frames."""
    filter_args: FilterArgs = dataclasses.field(default_factory=FilterArgs)
    """Bounds for filter."""
    resample_rate: Annotated[int, Field(ge=4000, le=384_000)] = 16000
    """Sample rate of the packed audio, in Hz."""
    speed_perturb: bool = True
    """Draw speed 1.0, 0.9 or 1.1 with equal chance; a changed speed makes another class, so classes triple."""
    num_frms: Annotated[int, Field(ge=2, le=10**6)] = 200
    """Frames in a training chunk; 200 are 32,240 samples at 16 kHz."""
    aug_prob: Probability = 0.6
    """Probability that a sample gets reverberation or noise (equal chance of either)."""
    channel_prob: Probability = 0.0
    """Probability of a random band limit and spectral tilt, which hide the recording channel. Not in WeSpeaker."""
    fbank_args: FbankArgs = dataclasses.field(default_factory=FbankArgs)
    """The features."""
    spec_aug: bool = False
    """Mask the features (SpecAugment)."""
    spec_aug_args: SpecAugArgs = dataclasses.field(default_factory=SpecAugArgs)
    """Sizes and probability of the masks."""

    def __post_init__(self) -> None:
        if self.shuffle_args.shard_window and self.sampler != "utterance":
            raise InconsistentError(
                ["shuffle_args.shard_window", "sampler"],
                f"found {self.shuffle_args.shard_window} with sampler {self.sampler}, expected 0: a window of shards "
                "does not hold every speaker; set it to 0 or sampler to utterance",
            )
        if self.spec_aug:
            for key, limit in (("max_t", "num_frms"), ("max_f", "fbank_args.num_mel_bins")):
                most = self.num_frms if key == "max_t" else self.fbank_args.num_mel_bins
                if (found := getattr(self.spec_aug_args, key)) > most:
                    raise InconsistentError(
                        [f"spec_aug_args.{key}", limit], f"found {found}, expected at most {limit} ({most})"
                    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelArgs:
    """Sizes of the speaker network."""

    feat_dim: Annotated[int, Field(ge=4, le=512)] = 80
    """Feature bands that go in; equals dataset_args.fbank_args.num_mel_bins."""
    embed_dim: Annotated[int, Field(ge=1, le=65536)] = 256
    """Dimension of the embedding."""
    pooling_func: Literal["TSTP"] = "TSTP"
    """Temporal statistics pooling: mean and standard deviation over time."""
    two_emb_layer: Literal[False] = False
    """Accepted for compatibility: the embedding is always the output of the first linear layer."""
    m_channels: Annotated[int, Field(ge=1, le=4096)] = 32
    """Channels of the first block; the others have 2, 4 and 8 times as many. Not in WeSpeaker's YAML (always 32)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadArgs:
    """What every loss has."""

    project_type: str
    """The loss."""
    scale: Annotated[float, Field(gt=0, le=1e6)]
    """s, the factor on every cosine; the larger alpha, the smaller s should be."""
    shard_classes: bool = False
    """Divide the prototypes over the processes (GPUs), for more classes than one can hold. Changes no result beyond
    round-off, and no file. Not in WeSpeaker."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SoftmaxArgs(HeadArgs):
    """Cross-entropy on scaled cosines, without a margin."""

    project_type: Literal["softmax"]
    """softmax"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AddMarginArgs(HeadArgs):
    """CosFace: s (cos - m)."""

    project_type: Literal["add_margin"]
    """add_margin"""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ArcMarginArgs(HeadArgs):
    """ArcFace: s cos(angle + m)."""

    project_type: Literal["arc_margin"]
    """arc_margin"""
    easy_margin: bool = False
    """Penalise only targets nearer than 90 degrees, instead of continuing the penalty linearly beyond pi - m."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlphaArcMarginArgs(HeadArgs):
    """EntMax, SparseMax (alpha 2) and A3M: alpha-divergence loss with ArcFace's angular margin."""

    project_type: Literal["alpha_arc_margin"]
    """alpha_arc_margin"""
    alpha: Alpha
    """1 = ArcFace, 2 = SparseMax."""
    reinit_epoch: Count | None = None
    """A3M-I: at the start of this epoch every prototype becomes the mean unit embedding of its class; null = never."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QMarginArgs(HeadArgs):
    """Q-Margin: alpha-divergence loss whose reference measure carries the margin, q_y = exp(-s m)."""

    project_type: Literal["q_margin"]
    """q_margin"""
    alpha: Alpha
    """1 = CosFace."""


ProjectionArgs = Annotated[
    SoftmaxArgs | AddMarginArgs | ArcMarginArgs | AlphaArcMarginArgs | QMarginArgs,
    Field(discriminator="project_type"),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MarginUpdate:
    """How the margin grows during training."""

    initial_margin: Margin = 0.0
    """Margin before increase_start_epoch."""
    final_margin: Margin = 0.1
    """m, the margin from fix_start_epoch on: a cosine for add_margin and q_margin, radians for the angular margins."""
    increase_start_epoch: Count = 20
    """The margin starts to grow at the start of this epoch (epochs count from 1)."""
    fix_start_epoch: Count = 40
    """The margin reaches final_margin at the start of this epoch."""
    update_margin: bool = True
    """false: the margin stays at initial_margin."""
    increase_type: Literal["exp", "linear"] = "exp"
    """Shape of the growth: fast at first, or even."""

    def __post_init__(self) -> None:
        if self.increase_start_epoch > self.fix_start_epoch:
            raise InconsistentError(
                ["increase_start_epoch", "fix_start_epoch"],
                f"found {self.increase_start_epoch}, expected at most fix_start_epoch ({self.fix_start_epoch})",
            )
        if self.initial_margin > self.final_margin:
            raise InconsistentError(
                ["initial_margin", "final_margin"],
                f"found {self.initial_margin}, expected at most final_margin ({self.final_margin})",
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossArgs:
    """WeSpeaker's arguments of the criterion; here the projection head is the loss, so there are none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerArgs:
    """Stochastic gradient descent. The learning rate stands in scheduler_args."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum."""
    nesterov: bool = True
    """Nesterov's momentum; needs momentum > 0."""
    weight_decay: Probability = 1e-4
    """L2 penalty on every parameter, prototypes too."""

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise InconsistentError(["nesterov", "momentum"], "found true with momentum 0, expected momentum > 0")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SchedulerArgs:
    """Learning rate: linear warm-up times exponential decay, times (processes * batch_size / 64) as in WeSpeaker."""

    initial_lr: Rate = 0.1
    """Learning rate at the start, for a total batch of 64."""
    final_lr: Rate = 5e-5
    """Learning rate after the last epoch, for a total batch of 64."""
    warm_up_epoch: CountOrNone = 6
    """Epochs of warm-up; 0 = none."""
    warm_from_zero: bool = True
    """true: warm up from 0; false: from the rate for a total batch of 64."""


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
    """Accepted for compatibility: run.sh --gpus and CUDA_VISIBLE_DEVICES decide. Without them, GPUs that are not
    there are refused, unless device is cpu."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto = the GPU if there is one. Not in WeSpeaker."""
    num_threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """CPU threads of a training process; null = PyTorch's choice. Not in WeSpeaker."""
    channels_last: bool = False
    """Keep activations channels-last, which is faster for 16 channels and more. Not in WeSpeaker."""
    compile: bool = False
    """Compile the network with torch.compile: for GPUs; takes minutes at the start. Not in WeSpeaker."""
    num_avg: Count = 10
    """How many of the last checkpoints are averaged; each of the last num_avg epochs is saved."""
    enable_amp: bool = False
    """Automatic mixed precision; the loss always computes in float32."""
    amp_dtype: Literal["fp16", "bf16"] = "fp16"
    """Type that enable_amp computes in; only fp16 scales the loss. Not in WeSpeaker (always fp16)."""

    seed: Seed = 42
    """Seed of initialisation, order and augmentation."""
    num_epochs: Count = 150
    """Epochs to train."""
    save_epoch_interval: Count = 5
    """Save the model every so many epochs (and each of the last num_avg)."""
    log_batch_interval: Count = 100
    """Write a log line every so many batches."""
    valid_epoch_interval: CountOrNone = 5
    """Held-out verification check (EER, TAR@FAR) every so many epochs; 0 = off. Not in WeSpeaker."""

    dataloader_args: DataloaderArgs = dataclasses.field(default_factory=DataloaderArgs)
    """Batches."""
    dataset_args: DatasetArgs = dataclasses.field(default_factory=DatasetArgs)
    """Samples, features and augmentation."""

    model: Literal["ResNet34"] = "ResNet34"
    """The speaker network."""
    model_init: str | None = None
    """Checkpoint (ours or WeSpeaker's) that the speaker network starts from; null = random weights."""
    model_args: ModelArgs = dataclasses.field(default_factory=ModelArgs)
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
        for key in ("channels_last", "compile"):  # the compiler chooses channels-last by itself
            if getattr(self, key) and self.device != "cuda" and self.model_args.m_channels % 16:
                raise InconsistentError(
                    ["model_args.m_channels", key],
                    f"found {self.model_args.m_channels} with {key} true, expected a multiple of 16: on a CPU, "
                    "PyTorch 2.13 and 2.14 corrupt the heap when a ResNet of 4 to 12 channels trains channels-last; "
                    f"set {key} to false or m_channels to 16 or 32",
                )
        margin = self.margin_update
        if isinstance(self.projection_args, SoftmaxArgs) and (margin.initial_margin or margin.final_margin):
            raise InconsistentError(
                ["margin_update.final_margin", "projection_args.project_type"],
                f"found {margin.final_margin} with project_type softmax, expected 0: softmax has no margin; "
                "set initial_margin and final_margin to 0 or choose add_margin",
            )
        reinit_epoch = getattr(self.projection_args, "reinit_epoch", None)
        if reinit_epoch is not None and reinit_epoch > self.num_epochs:
            raise InconsistentError(
                ["projection_args.reinit_epoch", "num_epochs"],
                f"found {reinit_epoch}, expected at most num_epochs ({self.num_epochs})",
            )

    def to_yaml(self) -> str:
        """The resolved configuration as YAML, which ``load_config`` reads back to an equal Config."""
        text: str = yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)
        return text

    def save(self, path: Path | str) -> None:
        """Write :meth:`to_yaml` to ``path`` atomically."""
        write_checked_text(path, self.to_yaml())
