"""The loss of a run, as the paper's Table 5 names it."""

import dataclasses

from wespeaker_qm.config import Config
from wespeaker_qm.evaluate.operating_points import number_name


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCard:
    """A loss and its settings."""

    name: str
    alpha: float | None
    """None for the losses without an alpha."""
    scale: float
    margin: float
    """The final margin."""

    def __str__(self) -> str:
        alpha = "" if self.alpha is None else f"α {number_name(self.alpha)}, "
        return f"{self.name} ({alpha}s {number_name(self.scale)}, m {number_name(self.margin)})"


def loss_card(config: Config) -> LossCard:
    """The loss that ``config`` trains."""
    loss = config.projection_args.definition
    return LossCard(
        name=loss.paper_name,
        alpha=loss.alpha,
        scale=config.projection_args.scale,
        margin=config.margin_update.final_margin,
    )
