"""Are two systems different? Paired comparisons on the same trials, and a correction for making many of them.

All systems are resampled together, so what a draw of speakers does to both cancels in their difference. Of all pairs
the p-values of one figure are corrected by Holm's method (1979): the chance of even one false claim stays below 5 %.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wespeaker_qm.evaluate.bootstrap import Resamples
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import figure_named
from wespeaker_qm.evaluate.intervals import spread

LEVEL = 0.05
"""A difference with a smaller p-value is called sure."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference of two systems in one figure."""

    figure: Figure
    one: str
    two: str
    difference: float
    """Figure of ``two`` less that of ``one``."""
    low: float | None
    high: float | None
    """Ends of the difference's 95 % interval; None where there is a ``reason``."""
    p_value: float | None
    """Of no difference, two-sided; None where the figures of both have a ``reason``."""
    p_holm: float | None
    """The same, corrected for all pairs of systems in this figure."""
    reason: str | None = None
    """Why there is no interval; None where there is one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, the figure by its name."""
        return {**vars(self), "figure": self.figure.name}


def comparisons_from_json(contents: Iterable[Mapping[str, Any]]) -> list[Comparison]:
    """What :meth:`Comparison.to_json` wrote, but for figures that this version does not know."""
    read = []
    for content in contents:
        figure = figure_named(content["figure"])
        if figure is not None:
            read.append(Comparison(**{**content, "figure": figure}))
    return read


def compare_all(systems: Mapping[str, Sequence[Resamples]], figures: Iterable[Figure]) -> list[Comparison]:
    """Compare all pairs of ``systems`` (name -> its runs, which differ in seed) in each of ``figures``."""
    comparisons: list[Comparison] = []
    for figure in figures:
        pairs = list(itertools.combinations(systems, 2))
        spreads = [spread(figure, systems[two], systems[one]) for one, two in pairs]
        p_values = [each.p_value() for each in spreads]
        for (one, two), each, p_value, p_holm in zip(pairs, spreads, p_values, holm(p_values), strict=True):
            low, high = each.interval() or (None, None)
            comparisons.append(Comparison(figure, one, two, each.estimate, low, high, p_value, p_holm, each.reason))
    return comparisons


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values: sorted, the k-th smallest of n times n - k, never falling, at most 1.

    What has no p-value claims nothing: it gets none, and does not count among the n.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    corrected: list[float | None] = [None] * len(p_values)
    there = sorted((value, position) for position, value in enumerate(p_values) if value is not None)
    largest = 0.0
    for rank, (value, position) in enumerate(there):
        largest = max(largest, min(1.0, (len(there) - rank) * value))
        corrected[position] = largest
    return corrected
