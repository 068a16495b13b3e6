"""The part of the schema that describes speaker networks: the arguments of each, by its name.

To offer another network, add the class of its arguments and its line in :data:`MODELS` here, and its line in
``network/build.py``, which makes it.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.config.fields import OWN, STRICT, ChosenBy, InconsistentError, NameIn


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelArgs:
    """What every speaker network has."""

    feat_dim: Annotated[int, Field(ge=4, le=512)] = 80
    """Feature bands that go in; equals dataset_args.fbank_args.num_mel_bins."""
    embed_dim: Annotated[int, Field(ge=1, le=65536)] = 256
    """Dimension of the embedding."""

    def cpu_channels_last_fault(self) -> tuple[str, str] | None:
        """Why the network must not train channels-last on a CPU: the key at fault and what is expected; or None."""
        return None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResNetArgs(ModelArgs):
    """Sizes of a ResNet."""

    pooling_func: Literal["TSTP"] = "TSTP"
    """Temporal statistics pooling: mean and standard deviation over time."""
    two_emb_layer: Literal[False] = False
    """Accepted for compatibility: the embedding is always the output of the first linear layer."""
    m_channels: Annotated[int, Field(ge=1, le=4096), OWN] = 32
    """Channels of the first block; the others have 2, 4 and 8 times as many. Not in WeSpeaker's YAML (always 32)."""
    stem_stride: Annotated[Literal[1, 2], OWN] = 1
    """2: the first convolution halves frequency and time, which leaves a quarter of the work. Not in WeSpeaker (1)."""
    window: Annotated[Annotated[int, Field(ge=2, le=10**6)] | None, OWN] = None
    """Frames of the windows, half overlapping, whose unit embeddings are averaged in evaluation; null: an utterance is
    embedded as one. For networks that train on short chunks. Not in WeSpeaker."""

    def __post_init__(self) -> None:
        reduction = 8 * self.stem_stride
        if self.feat_dim % reduction:
            raise InconsistentError(
                ["feat_dim", "stem_stride"],
                f"found {self.feat_dim}, expected a multiple of {reduction}, 8 times stem_stride ({self.stem_stride})",
            )
        if self.window is not None and self.window <= reduction:
            raise InconsistentError(
                ["window", "stem_stride"],
                f"found {self.window}, expected more than {reduction}, 8 times stem_stride ({self.stem_stride}): the "
                "network embeds no fewer frames",
            )

    def cpu_channels_last_fault(self) -> tuple[str, str] | None:
        """Few channels corrupt the heap there."""
        if self.m_channels % 16 == 0:
            return None
        return "m_channels", (
            "a multiple of 16: on a CPU, PyTorch 2.13 and 2.14 corrupt the heap when a ResNet of 4 to 12 channels "
            "trains channels-last; set m_channels to 16 or 32"
        )


MODELS: Mapping[str, type[ModelArgs]] = {"ResNet10": ResNetArgs, "ResNet18": ResNetArgs, "ResNet34": ResNetArgs}
"""Key ``model`` -> class of ``model_args``."""

ModelName = Annotated[str, NameIn(MODELS)]
AnyModelArgs = Annotated[ModelArgs, ChosenBy(MODELS)]
