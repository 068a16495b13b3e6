"""The part of the schema that says what is trained on: batches, samples, features and augmentation.

Keys that this project accepts for the sake of WeSpeaker's files but does not use say so.
"""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.config.fields import OWN, STRICT, Count, CountOrNone, InconsistentError, Probability

Readers = Annotated[int, Field(ge=0, le=4096)]
"""Processes that read ahead."""
Milliseconds = Annotated[int, Field(ge=1, le=1000)]


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
    frontend: Annotated[Literal["auto", "device", "worker"], OWN] = "auto"
    """Where augmentation and features are computed: in the training process on its device, or by the loader processes,
    which otherwise only read; auto = worker where the device is the CPU and num_workers is not 0. Not in WeSpeaker."""
    drop_last: Literal[True] = True
    """Accepted for compatibility: an epoch is always floor(samples / (processes * batch_size)) full batches."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShuffleArgs:
    """The order of an epoch. WeSpeaker's shuffle buffer is not needed where access is random."""

    shuffle_size: Count = 2500
    """Accepted for compatibility, without effect: the whole epoch is permuted, not a buffer."""
    shard_window: Annotated[CountOrNone, OWN] = 0
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
    sampler: Annotated[Literal["utterance", "speaker_balanced"], OWN] = "utterance"
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
    channel_prob: Annotated[Probability, OWN] = 0.0
    """Probability of each part of a random channel: equaliser, low-pass, high-pass, hiss. Not in WeSpeaker."""
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
