"""Times of several ways to do the same, taken in turn."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Quartiles(NamedTuple):
    """Of repeated measurements: the median, and how far the middle half of them spreads."""

    lower: float
    median: float
    upper: float


def quartiles(values: list[float]) -> Quartiles:
    """Quartiles of at least one value.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    Quartiles(lower=2.0, median=3.0, upper=4.0)
    """
    return Quartiles(*np.quantile(values, [0.25, 0.5, 0.75]).tolist())


def in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the steps in turn, A, B, C, A, B, C, ..., after one round that does not count.

    What slows the machine down for a while then slows all of them, and ratios within a round stay fair.

    Args:
        steps: name -> what is timed; what it returns is freed after the clock has stopped.
        rounds: times that each is timed.

    Returns:
        Name -> milliseconds, one a round.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            result = step()
            elapsed_ms = 1e3 * (time.perf_counter() - start)
            del result
            if number > 0:
                times_ms[name].append(elapsed_ms)
    return times_ms


def paired_ratios(times: list[float], other_times: list[float]) -> Quartiles:
    """Quartiles of the ratio time / other time within a round."""
    return quartiles([time / other for time, other in zip(times, other_times, strict=True)])
