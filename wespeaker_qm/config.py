"""The training configuration: WeSpeaker's keys, typed, frozen and checked before anything is built.

A configuration is made of YAML files merged left to right, then of dotted overrides from the command line::

    conf/resnet34.yaml  <-  egs/mini/conf.yaml  <-  conf/loss/cosface.yaml  <-  dataset_args.num_frms=100

Mappings are merged key by key, with one exception: a file or command line that names ``projection_args.project_type``
replaces ``projection_args`` as a whole, because the alpha of one loss means nothing to another.

Keys that this project accepts for the sake of WeSpeaker's files but does not use say so in their docstring.
"""

import dataclasses
import difflib
import json
import logging
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.yaml_files import parse_yaml, read_yaml_mapping

logger = logging.getLogger(__name__)

COMMAND_LINE = "command line"

EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dataclass_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
"""What a pydantic error type asks for, in YAML's words."""

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Margin = Annotated[float, Field(ge=0, le=1)]
Alpha = Annotated[float, Field(ge=1, le=2)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]

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
    num_workers: CountOrNone = 16
    """Loader processes for each training process; 0 = fetch in the training process. Never changes the result."""
    pin_memory: bool = False
    """Fetch into page-locked memory: faster copies to a GPU."""
    prefetch_factor: Count = 8
    """Batches that each loader process fetches ahead; without effect when num_workers is 0."""
    drop_last: Literal[True] = True
    """Accepted for compatibility: an epoch is always floor(samples / (processes * batch_size)) full batches."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShuffleArgs:
    """WeSpeaker's shuffle buffer, which random access makes unnecessary."""

    shuffle_size: Count = 2500
    """Accepted for compatibility, without effect: the whole epoch is permuted, not a buffer."""


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

    num_mel_bins: Annotated[int, Field(ge=4)] = 80
    """Mel bands; equals model_args.feat_dim."""
    frame_shift: Count = 10
    """Milliseconds from one frame to the next."""
    frame_length: Count = 25
    """Milliseconds in a frame."""
    dither: NonNegative = 1.0
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
    """Accepted for compatibility, without effect."""
    filter: bool = True
    """Leave out utterances shorter than filter_args.min_num_frames."""
    filter_args: FilterArgs = dataclasses.field(default_factory=FilterArgs)
    """Bounds for filter."""
    resample_rate: Annotated[int, Field(ge=4000)] = 16000
    """Sample rate of the packed audio, in Hz."""
    speed_perturb: bool = True
    """Draw speed 1.0, 0.9 or 1.1 with equal chance; a changed speed makes another class, so classes triple."""
    num_frms: Annotated[int, Field(ge=2)] = 200
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelArgs:
    """Sizes of the speaker network."""

    feat_dim: Annotated[int, Field(ge=4)] = 80
    """Feature bands that go in; equals dataset_args.fbank_args.num_mel_bins."""
    embed_dim: Count = 256
    """Dimension of the embedding."""
    pooling_func: Literal["TSTP"] = "TSTP"
    """Temporal statistics pooling: mean and standard deviation over time."""
    two_emb_layer: Literal[False] = False
    """Accepted for compatibility: the embedding is always the output of the first linear layer."""
    m_channels: Count = 32
    """Channels of the first block; the others have 2, 4 and 8 times as many. Not in WeSpeaker's YAML (always 32)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SoftmaxArgs:
    """Cross-entropy on scaled cosines, without a margin."""

    project_type: Literal["softmax"]
    """softmax"""
    scale: Positive
    """s, the factor on every cosine."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AddMarginArgs:
    """CosFace: s (cos - m)."""

    project_type: Literal["add_margin"]
    """add_margin"""
    scale: Positive
    """s, the factor on every cosine."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ArcMarginArgs:
    """ArcFace: s cos(angle + m)."""

    project_type: Literal["arc_margin"]
    """arc_margin"""
    scale: Positive
    """s, the factor on every cosine."""
    easy_margin: bool = False
    """Penalise only targets nearer than 90 degrees, instead of continuing the penalty linearly beyond pi - m."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlphaArcMarginArgs:
    """EntMax, SparseMax (alpha 2) and A3M: alpha-divergence loss with ArcFace's angular margin."""

    project_type: Literal["alpha_arc_margin"]
    """alpha_arc_margin"""
    scale: Positive
    """s, the factor on every cosine; the larger alpha, the smaller s should be."""
    alpha: Alpha
    """1 = ArcFace, 2 = SparseMax."""
    reinit_epoch: Count | None = None
    """A3M-I: at the start of this epoch every prototype becomes the mean unit embedding of its class; null = never."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QMarginArgs:
    """Q-Margin: alpha-divergence loss whose reference measure carries the margin, q_y = exp(-s m)."""

    project_type: Literal["q_margin"]
    """q_margin"""
    scale: Positive
    """s, the factor on every cosine; the larger alpha, the smaller s should be."""
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
    weight_decay: NonNegative = 1e-4
    """L2 penalty on every parameter, prototypes too."""

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise InconsistentError(["nesterov", "momentum"], "found true with momentum 0, expected momentum > 0")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SchedulerArgs:
    """Learning rate: linear warm-up times exponential decay, times (processes * batch_size / 64) as in WeSpeaker."""

    initial_lr: Positive = 0.1
    """Learning rate at the start, for a total batch of 64."""
    final_lr: Positive = 5e-5
    """Learning rate after the last epoch, for a total batch of 64."""
    warm_up_epoch: CountOrNone = 6
    """Epochs of warm-up; 0 = none."""
    warm_from_zero: bool = True
    """true: warm up from 0; false: from the rate for a total batch of 64."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Everything that decides what is trained, except the data.

    Raises:
        pydantic.ValidationError: a value of the wrong type or range, or keys at odds (:func:`load_config` turns it into
            a RecipeError that names the file).
    """

    exp_dir: str | None = None
    """Accepted for compatibility, without effect: run.sh --exp_dir decides."""
    gpus: str | None = None
    """Accepted for compatibility, without effect: run.sh --num_gpus and CUDA_VISIBLE_DEVICES decide."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto = the GPU if there is one. Not in WeSpeaker."""
    num_threads: Count | None = None
    """CPU threads of a training process; null = PyTorch's choice. Not in WeSpeaker."""
    channels_last: bool = False
    """Keep activations channels-last, which is faster for 16 channels and more. Not in WeSpeaker."""
    num_avg: Count = 10
    """How many of the last checkpoints are averaged; each of the last num_avg epochs is saved."""
    enable_amp: bool = False
    """Automatic mixed precision; the loss always computes in float32."""
    amp_dtype: Literal["fp16", "bf16"] = "fp16"
    """Type that enable_amp computes in; only fp16 scales the loss. Not in WeSpeaker (always fp16)."""

    seed: CountOrNone = 42
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
        if self.channels_last and self.device != "cuda" and self.model_args.m_channels % 16:
            raise InconsistentError(
                ["model_args.m_channels", "channels_last"],
                f"found {self.model_args.m_channels} with channels_last true, expected a multiple of 16: on a CPU, "
                "PyTorch 2.13 and 2.14 corrupt the heap when a ResNet of 8 or 12 channels trains channels-last; "
                "set channels_last to false or m_channels to 16 or 32",
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
        """The resolved configuration as YAML, which :func:`load_config` reads back to an equal Config."""
        text: str = yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)
        return text

    def save(self, path: Path | str) -> None:
        """Write :meth:`to_yaml` to ``path`` atomically."""
        write_text(path, self.to_yaml())


def load_config(files: Sequence[Path | str], overrides: Sequence[str] = ()) -> Config:
    """Read YAML files, merge them left to right, apply dotted overrides, and check the result.

    Args:
        files: at least one YAML file; later ones win. Missing keys take the defaults of :class:`Config`.
        overrides: ``key.key=value``, the value in YAML: ``dataset_args.num_frms=100``. Their order is of no matter,
            except that the last of two values for one key wins.

    Returns:
        The frozen configuration. Settings worth a second look (see :func:`config_notes`) are logged.

    Raises:
        RecipeError: a file that is missing or not YAML, an unknown or doubled key, a value of the wrong type or range,
            or keys at odds; a line for each names the file (or ``command line``), the dotted key, the value found,
            what is expected, and for unknown keys the nearest valid names.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for file in files:
        _merge(merged, read_yaml_mapping(file), origins, str(file))
    _merge(merged, _parse_overrides(overrides), origins, COMMAND_LINE)
    try:
        # Through JSON because pydantic's strict mode wants instances of nested dataclasses from Python objects.
        config = TypeAdapter(Config).validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        lines = [_explain(detail, merged, origins) for detail in error.errors()]
        raise RecipeError("\n".join(lines)) from None
    for note in config_notes(config):
        logger.warning("config: %s", note)
    return config


def config_notes(config: Config) -> list[str]:
    """What a user should know about a valid configuration: settings without effect or that defeat training."""
    notes = []
    for key in ("exp_dir", "gpus"):
        if getattr(config, key) is not None:
            notes.append(f"{key} is accepted for compatibility but has no effect; use run.sh --exp_dir and --num_gpus")
    dataset = config.dataset_args
    if dataset.shuffle_args != ShuffleArgs():
        notes.append("dataset_args.shuffle_args.shuffle_size has no effect: the whole epoch is permuted")
    if dataset.filter_args.max_num_frames != FilterArgs().max_num_frames:
        notes.append("dataset_args.filter_args.max_num_frames has no effect: chunks are read from the whole utterance")
    margin = config.margin_update
    if margin.update_margin and margin.final_margin > margin.initial_margin:
        if margin.fix_start_epoch > config.num_epochs:
            notes.append(
                f"the margin never reaches margin_update.final_margin: fix_start_epoch ({margin.fix_start_epoch}) "
                f"comes after num_epochs ({config.num_epochs})"
            )
    elif margin.final_margin != margin.initial_margin:
        notes.append("margin_update.update_margin is false: the margin stays at initial_margin")
    if config.scheduler_args.warm_up_epoch >= config.num_epochs:
        notes.append(
            f"the learning rate never stops warming up: scheduler_args.warm_up_epoch "
            f"({config.scheduler_args.warm_up_epoch}) is not below num_epochs ({config.num_epochs})"
        )
    projection = config.projection_args
    if isinstance(projection, QMarginArgs | AlphaArcMarginArgs) and projection.alpha > 1:
        prior_margin = margin.final_margin if isinstance(projection, QMarginArgs) else 0.0
        gap = solved_gap(projection.alpha, projection.scale, prior_margin)
        if gap > 2:
            notes.append(
                f"projection_args: no sample can ever be solved: the cosine gap that alpha {projection.alpha}, "
                f"scale {projection.scale} and margin {prior_margin} ask for is {gap:.2f}, but no gap exceeds 2"
            )
    return notes


def solved_gap(alpha: float, scale: float, margin: float) -> float:
    """Cosine gap to the best other class from which a Q-Margin loss is exactly zero: exp(a s m) / (a s), a = alpha - 1.

    >>> round(solved_gap(1.5, 10, 0.1), 2)
    0.33
    """
    a = alpha - 1
    return math.exp(a * scale * margin) / (a * scale)


def schema_keys(section: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, sections and leaves; ``projection_args`` has the keys of all its losses.

    >>> [key for key in schema_keys() if key.endswith("alpha")]
    ['projection_args.alpha']
    """
    keys: dict[str, None] = {}
    for dataclass_type in _dataclasses_of(section):
        hints = typing.get_type_hints(dataclass_type)
        for field in dataclasses.fields(dataclass_type):
            keys[prefix + field.name] = None
            keys.update(dict.fromkeys(schema_keys(hints[field.name], f"{prefix}{field.name}.")))
    return list(keys)


def _dataclasses_of(hint: Any) -> list[Any]:
    """The dataclasses in a type: itself, or the members of a union."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [member for member in members if dataclasses.is_dataclass(member)]


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Nest ``a.b=value`` strings, so that they merge like one more file."""
    nested: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise RecipeError(
                f"{COMMAND_LINE}: found override {override!r}, expected key=value, e.g. dataset_args.num_frms=100"
            )
        section = nested
        for name in names[:-1]:
            child = section.setdefault(name, {})
            if not isinstance(child, dict):
                raise RecipeError(f"{COMMAND_LINE}: {key.strip()}: {name} was given the value {_show(child)} before")
            section = child
        section[names[-1]] = parse_yaml(text, f"{COMMAND_LINE}: {key.strip()}")
    return nested


def _merge(
    base: dict[str, Any], overlay: dict[str, Any], origins: dict[str, str], source: str, prefix: str = ""
) -> None:
    """Merge ``overlay`` into ``base`` in place and note in ``origins`` where each value came from."""
    for name, value in overlay.items():
        key = f"{prefix}{name}"
        origins[key] = source
        if not isinstance(value, dict):
            base[name] = value
            continue
        replaces = key == "projection_args" and "project_type" in value
        if replaces or not isinstance(base.get(name), dict):
            base[name] = {}
            for stale in [other for other in origins if other.startswith(f"{key}.")]:
                del origins[stale]
        _merge(base[name], value, origins, source, f"{key}.")


def _explain(detail: Any, merged: dict[str, Any], origins: dict[str, str]) -> str:
    """One line of an error message: where the value came from, its key, what was found and what is expected."""
    project_type = _project_type(merged)
    names = [str(name) for name in detail["loc"]]
    if names[:1] == ["projection_args"] and names[1:2] == [project_type]:
        del names[1]  # pydantic puts the tag of the chosen loss into the path
    key = ".".join(names)
    reason = detail.get("ctx", {}).get("error")
    if isinstance(reason, InconsistentError):
        keys = [".".join([*names, name]) for name in reason.keys]
        sources = dict.fromkeys(_origin(name, origins) for name in keys)
        return f"{' and '.join(sources)}: {keys[0]}: {reason.message}"
    source = _origin(key, origins)
    kind = detail["type"]
    if kind == "unexpected_keyword_argument":
        return f"{source}: {key}: unknown key; {_suggest(key, project_type)}"
    if kind == "missing":
        of_loss = f" (project_type {project_type} needs it)" if names[0] == "projection_args" else ""
        return f"{source}: {key}: missing, expected a value{of_loss}"
    if kind == "union_tag_not_found":
        return f"{source}: {key}.project_type: missing, expected one of {', '.join(_losses())}"
    if kind == "union_tag_invalid":
        key = f"{key}.project_type"
        near = difflib.get_close_matches(str(project_type), list(_losses()), n=2, cutoff=0.4)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        return f"{_origin(key, origins)}: {key}: found {project_type!r}, expected one of {', '.join(_losses())}{hint}"
    expected = EXPECTED.get(kind, detail["msg"].removeprefix("Input should be "))
    if kind == "literal_error" and expected in {"True", "False"}:
        expected = f"{expected.lower()}, the only value offered"
    return f"{source}: {key}: found {_show(detail['input'])}, expected {expected}"


def _project_type(merged: dict[str, Any]) -> Any:
    projection = merged.get("projection_args")
    return projection.get("project_type") if isinstance(projection, dict) else None


def _losses() -> dict[str, Any]:
    """Project type -> dataclass of its arguments."""
    hint = typing.get_type_hints(Config, include_extras=True)["projection_args"]
    return {
        typing.get_args(typing.get_type_hints(member)["project_type"])[0]: member for member in _dataclasses_of(hint)
    }


def _suggest(key: str, project_type: Any) -> str:
    """The valid names nearest to an unknown key."""
    section, _, name = key.rpartition(".")
    if section == "projection_args":
        owners = [
            loss for loss, member in _losses().items() if name in {field.name for field in dataclasses.fields(member)}
        ]
        valid = [field.name for field in dataclasses.fields(_losses()[project_type])]
        belongs = f"it belongs to {', '.join(owners)}; " if owners else ""
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        return belongs + (f"nearest: {', '.join(near)}; " if near else "") + f"{project_type} has {', '.join(valid)}"
    every = schema_keys()
    prefix = f"{section}." if section else ""
    siblings = [other.removeprefix(prefix) for other in every if other.startswith(prefix)]
    siblings = [other for other in siblings if "." not in other]
    elsewhere = [other for other in every if other.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, siblings, n=3, cutoff=0.6)
    found = elsewhere + [prefix + other for other in near]
    if found:
        return f"nearest valid names: {', '.join(found)}"
    return f"valid names here: {', '.join(siblings) or 'none'}"


def _origin(key: str, origins: dict[str, str]) -> str:
    """The file (or command line) that set ``key``, or else the nearest section around it."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "defaults"


def _show(value: Any) -> str:
    """A value with its YAML type, for messages."""
    kinds = {bool: "true/false", int: "integer", float: "number", str: "text", list: "list", dict: "mapping"}
    if value is None:
        return "null"
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{shown} ({kinds.get(type(value), type(value).__name__)})"
