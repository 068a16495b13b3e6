"""The part of the schema that says how weights change: the optimiser, and what its rate and the margin are when."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from wespeaker_qm.config.fields import STRICT, Count, CountOrNone, InconsistentError, Probability

Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate."""
Margin = Annotated[float, Field(ge=0, le=1)]


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
