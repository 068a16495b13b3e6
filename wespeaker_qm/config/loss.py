"""The part of the schema that describes losses: the arguments of each, by its ``project_type``, and what it is.

To add a member of the family, add the class of its arguments and its line in :data:`LOSSES`; its ``definition`` is
what the head, the notes and the reports read. ``conf/loss/`` has an overlay for each.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.config.fields import OWN, STRICT, ChosenBy, Count

Alpha = Annotated[float, Field(ge=1, le=2)]


class LossDefinition(NamedTuple):
    """What a loss is, in the terms of the paper."""

    paper_name: str
    """As the paper's tables call it."""
    margin_type: Literal["none", "reference", "angular", "easy_angular"]
    """Where the margin goes: into the reference measure of the target (a cosine), or into its angle (radians); ``easy``
    for angles below 90 degrees only."""
    alpha: float | None = None
    """Of the divergence, in [1, 2]. None: the loss has no alpha to choose, and is that of alpha 1, cross-entropy."""
    reinit_epoch: int | None = None
    """The epoch at whose start A3M-I re-initialises the prototypes."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadArgs:
    """What every loss has."""

    project_type: str
    """The loss."""
    scale: Annotated[float, Field(gt=0, le=1e6)]
    """s, the factor on every cosine; the larger alpha, the smaller s should be."""
    shard_classes: Annotated[bool, OWN] = False
    """Divide the prototypes over the processes (GPUs), for more classes than one can hold. Changes no result beyond
    round-off, and no file. Not in WeSpeaker."""

    @property
    def definition(self) -> LossDefinition:
        """What the loss is; all that is not in a subclass asks here."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SoftmaxArgs(HeadArgs):
    """Cross-entropy on scaled cosines, without a margin. WeSpeaker's ``softmax`` is another: a plain linear layer."""

    project_type: Literal["softmax"]
    """softmax"""

    @property
    def definition(self) -> LossDefinition:
        """Without a margin."""
        return LossDefinition("softmax", "none")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AddMarginArgs(HeadArgs):
    """CosFace: s (cos - m)."""

    project_type: Literal["add_margin"]
    """add_margin"""

    @property
    def definition(self) -> LossDefinition:
        """As Table 5 names it."""
        return LossDefinition("CosFace", "reference")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ArcMarginArgs(HeadArgs):
    """ArcFace: s cos(angle + m)."""

    project_type: Literal["arc_margin"]
    """arc_margin"""
    easy_margin: bool = False
    """Penalise only targets nearer than 90 degrees, instead of continuing the penalty linearly beyond pi - m."""

    @property
    def definition(self) -> LossDefinition:
        """As Table 5 names it."""
        return LossDefinition("ArcFace", "easy_angular" if self.easy_margin else "angular")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlphaArcMarginArgs(HeadArgs):
    """EntMax, SparseMax (alpha 2) and A3M: alpha-divergence loss with ArcFace's angular margin."""

    project_type: Literal["alpha_arc_margin"]
    """alpha_arc_margin"""
    alpha: Alpha
    """1 = ArcFace, 2 = SparseMax."""
    reinit_epoch: Count | None = None
    """A3M-I: at the start of this epoch every prototype becomes the mean unit embedding of its class; null = never."""

    @property
    def definition(self) -> LossDefinition:
        """As Table 5 names it."""
        return LossDefinition("EntMax", "angular", alpha=self.alpha, reinit_epoch=self.reinit_epoch)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QMarginArgs(HeadArgs):
    """Q-Margin: alpha-divergence loss whose reference measure carries the margin, q_y = exp(-s m)."""

    project_type: Literal["q_margin"]
    """q_margin"""
    alpha: Alpha
    """1 = CosFace."""

    @property
    def definition(self) -> LossDefinition:
        """As Table 5 names it."""
        return LossDefinition("Q-Margin", "reference", alpha=self.alpha)


LOSSES: Mapping[str, type[HeadArgs]] = {
    "softmax": SoftmaxArgs,
    "add_margin": AddMarginArgs,
    "arc_margin": ArcMarginArgs,
    "alpha_arc_margin": AlphaArcMarginArgs,
    "q_margin": QMarginArgs,
}
"""Key ``project_type`` -> class of ``projection_args``."""

ProjectionArgs = Annotated[HeadArgs, ChosenBy(LOSSES, key="project_type")]
