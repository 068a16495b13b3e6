"""What an evaluation found: the figures of every system on a trial list, and their form in ``metrics.json``."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from wespeaker_qm.evaluate.comparison import Comparison
from wespeaker_qm.evaluate.figure import Figure, Reading
from wespeaker_qm.evaluate.figures import readings_to_json
from wespeaker_qm.evaluate.intervals import CONFIDENCE, Band
from wespeaker_qm.evaluate.operating_points import RocSteps

TRAINED = "trained"
"""The name of the evaluated system in ``metrics.json``; the others are baselines, or its scores made into others."""
Unit = Literal["speaker", "trial"]
"""What is drawn for intervals; those over trials are too narrow, and there to show it."""
Interval = tuple[float, float]
Sureness = Interval | str | None
"""An interval, the reason why there is none, or nothing where none was asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class SystemResult:
    """The figures of one system on one trial list."""

    roc: RocSteps
    """All operating points."""
    readings: dict[Figure, Reading | None]
    """Figure -> what it is; None for one that the list cannot measure."""
    intervals: dict[Figure, Interval]
    """Figure -> its interval, where it has one."""
    reasons: dict[Figure, str]
    """Figure -> why it has no interval, where one was asked for."""
    band: Band | None
    """Of the DET curve; None where none could be had."""

    def value(self, figure: Figure) -> float | None:
        """A figure; None where it is not measurable."""
        reading = self.readings[figure]
        return None if reading is None else figure.value_of(reading)

    def sureness(self, figure: Figure) -> Sureness:
        """The interval of a figure, or why it has none."""
        return self.intervals.get(figure, self.reasons.get(figure))

    def to_json(self) -> dict[str, Any]:
        """The figures, not the curve, as plain values; a figure whose interval is null stands in ``no_interval``."""
        content = readings_to_json(self.readings)
        content["intervals"] = {figure.name: list(interval) for figure, interval in self.intervals.items()}
        content["intervals"] |= {figure.name: None for figure in self.reasons}
        content["no_interval"] = {figure.name: reason for figure, reason in self.reasons.items()}
        if self.band is not None:
            content["band"] = {edge: np.round(values, 7).tolist() for edge, values in self.band._asdict().items()}
        return content


class Resampling(NamedTuple):
    """How intervals were made."""

    unit: Unit
    num_resamples: int
    seed: int
    confidence: float = CONFIDENCE


@dataclasses.dataclass(frozen=True, eq=False)
class ListResult:
    """The figures of all systems on one trial list."""

    num_targets: int
    num_nontargets: int
    num_utterances: int
    num_speakers: int | None
    """None where it is not known who speaks, or nothing depends on it."""
    systems: dict[str, SystemResult]
    """System name -> its figures, the trained system first."""
    resampling: Resampling | None
    """None where there are no intervals."""
    no_intervals: str | None
    """Why the list supports none, where they were asked for."""
    comparisons: list[Comparison]
    """Of all pairs of systems; empty without intervals."""

    def to_json(self) -> dict[str, Any]:
        """Counts and figures as plain values."""
        return {
            "num_targets": self.num_targets,
            "num_nontargets": self.num_nontargets,
            "num_utterances": self.num_utterances,
            "num_speakers": self.num_speakers,
            "systems": {name: system.to_json() for name, system in self.systems.items()},
            "resampling": None if self.resampling is None else self.resampling._asdict(),
            "no_intervals": self.no_intervals,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }
