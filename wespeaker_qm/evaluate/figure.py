"""What a figure is: how it is called, how it is read from a system's scores, and what its interval is made from.

Legend: N trials. A rate is what a figure is read at: a false-accept rate, a true-accept rate, or a prior.
"""

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.influence import Influence
from wespeaker_qm.evaluate.operating_points import (
    EqualErrorRate,
    MinDcf,
    OperatingPoint,
    RocSteps,
    far_name,
    number_name,
)
from wespeaker_qm.evaluate.scales import Scale

RATE_NAMES: dict[str, Callable[[float], str]] = {"far": far_name, "tar": number_name, "p_target": number_name}
"""What a figure is read at -> how such a rate is written."""

Reading = float | EqualErrorRate | MinDcf | OperatingPoint
"""A figure, alone or with the operating point that it is read from."""


class Quantity(enum.Enum):
    """What a figure measures. Tables have the figures in this order."""

    RATE = "rate of errors or of successes"
    COST = "cost of decisions"
    LLR_COST = "cost of scores as log-likelihood ratios"
    THRESHOLD = "threshold"


class Compared(enum.IntEnum):
    """Where the differences of systems in a figure are shown; a higher level includes the lower ones."""

    NOWHERE = 0
    ON_REQUEST = 1
    """By ``wespeaker-qm compare``."""
    STORED = 2
    """In ``metrics.json``."""
    REPORTED = 3
    """In reports, and beside Table 5."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """What the figures of a system are read from."""

    roc: RocSteps
    hull: RocSteps
    """Vertices of the convex hull of ``roc``."""
    cost_points: RocSteps
    """Where the smallest cost is looked for: all operating points, or those of the hull, which has it and is short."""
    cllr: float | None
    """Cllr of the scores; None where they are no log-likelihood ratios."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FigureKind:
    """A figure, or a figure at any rate."""

    name: str
    """In ``metrics.json`` and on command lines; a rate follows it."""
    title: str | None
    """Of its line in tables; a rate follows it. None: it has no line, because it stands beside another figure."""
    key: str | None
    """Of its values in ``metrics.json``; None: they are part of another figure's."""
    quantity: Quantity
    read: Callable[[Curves, float], Reading]
    """Curves and rate -> the figure."""
    field: str | None = None
    """Which field of the reading is the figure; None where the reading is a number."""
    rate_of: Literal["far", "tar", "p_target"] | None = None
    """What the rate is; None for a figure that is read at none."""
    threshold: Callable[[Curves, float], float | None]
    """Curves and rate -> the threshold whose errors the figure counts; None where it weighs all scores."""
    fixed_threshold: Callable[[float], float] | None = None
    """Rate -> the threshold, where it is the same for all scores; None where the scores decide."""
    influence: Callable[[Influence, float, float], NDArray[np.float64]]
    """Parts, threshold and rate -> (N,) influence of each trial on the figure."""
    rests_on: tuple[Literal["target", "non_target"], ...] = ("non_target", "target")
    """The trials whose errors at the threshold tell how sure the figure is."""
    scale: Scale
    """Of its interval."""
    is_measurable: Callable[[float, int], bool] = lambda rate, num_nontargets: True
    """Whether so many non-target trials can show the figure at a rate."""
    needs_llr: bool = False
    """Makes sense for log-likelihood ratios alone."""
    more_is_better: bool = False
    """Whether the better system has the higher value."""
    compared: Compared
    in_papers: bool = False
    """Whether the rows for LaTeX have a column of it."""
    digits: int
    """Decimals in tables: of rates in per cent, of costs and thresholds as they are."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure at its rate: ``Figure(EER)``, ``Figure(TAR_AT_FAR, 0.001)``.

    Raises:
        ValueError: a rate is missing, or there is one that the figure is not read at.
    """

    kind: FigureKind
    rate: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no figure."""
        if (self.rate is None) != (self.kind.rate_of is None):
            raise ValueError(f"{self.kind.name}: found rate {self.rate}, expected {self.kind.rate_of or 'none'}")

    @property
    def rate_name(self) -> str:
        """The rate as it is written; nothing where there is none."""
        return "" if self.kind.rate_of is None else RATE_NAMES[self.kind.rate_of](self._rate)

    @property
    def name(self) -> str:
        """In ``metrics.json``, on command lines and in comparisons."""
        return f"{self.kind.name} {self.rate_name}".rstrip()

    @property
    def title(self) -> str:
        """Of its line in tables."""
        return f"{self.kind.title or self.kind.name} {self.rate_name}".rstrip()

    def read(self, curves: Curves) -> Reading:
        """The figure of a system, with the operating point that it is read from, if any."""
        return self.kind.read(curves, self._rate)

    def value_of(self, reading: Reading) -> float:
        """The figure itself."""
        number: Any = reading if self.kind.field is None else getattr(reading, self.kind.field)
        return float(number)

    def threshold(self, curves: Curves) -> float | None:
        """The threshold whose errors the figure counts; None where it weighs all scores."""
        return self.kind.threshold(curves, self._rate)

    @property
    def fixed_threshold(self) -> float | None:
        """The threshold whose errors the figure counts, where it is the same for all scores; None where it is not."""
        return None if self.kind.fixed_threshold is None else self.kind.fixed_threshold(self._rate)

    def influence(self, parts: Influence, curves: Curves) -> NDArray[np.float64]:
        """(N,) how much each trial, in the order of the list, moves the figure."""
        threshold = self.threshold(curves)
        return self.kind.influence(parts, math.nan if threshold is None else threshold, self._rate)

    def is_measurable(self, num_nontargets: int) -> bool:
        """Whether so many non-target trials can show it."""
        return self.kind.is_measurable(self._rate, num_nontargets)

    @property
    def _rate(self) -> float:
        return math.nan if self.rate is None else self.rate
