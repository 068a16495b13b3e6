"""Are two systems different? Paired comparisons on the same trials, and a correction for making many of them.

All systems are resampled together, so what a draw of speakers does to both cancels in their difference. Of all pairs
the p-values of one figure are corrected by Holm's method (1979): the chance of even one false claim stays below 5 %.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from wespeaker_qm.evaluate.bootstrap import Resamples
from wespeaker_qm.evaluate.intervals import spread


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference of two systems in one figure."""

    figure: str
    one: str
    two: str
    difference: float
    """Figure of ``two`` less that of ``one``."""
    low: float
    high: float
    """Ends of the difference's 95 % interval."""
    p_value: float
    """Of no difference, two-sided."""
    p_holm: float
    """The same, corrected for all pairs of systems in this figure."""


def compare_all(systems: Mapping[str, Sequence[Resamples]], figures: Sequence[str]) -> list[Comparison]:
    """Compare all pairs of ``systems`` (name -> its runs, which differ in seed) in each of ``figures``."""
    comparisons: list[Comparison] = []
    for figure in figures:
        pairs = list(itertools.combinations(systems, 2))
        spreads = [spread(figure, systems[two], systems[one]) for one, two in pairs]
        p_values = [each.p_value() for each in spreads]
        for (one, two), each, p_value, p_holm in zip(pairs, spreads, p_values, holm(p_values), strict=True):
            low, high = each.interval()
            comparisons.append(Comparison(figure, one, two, each.estimate, low, high, p_value, p_holm))
    return comparisons


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values: sorted, the k-th smallest of n times n - k, never falling, at most 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    corrected = np.empty(count)
    largest = 0.0
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        corrected[position] = largest
    return corrected.tolist()
