"""Scales on which a figure is nearly normal, so that its interval is symmetric there."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit


@dataclasses.dataclass(frozen=True)
class Scale:
    """A monotonic function of a figure."""

    forward: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    inverse: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    slope: Callable[[float], float]
    """Derivative of ``forward``."""
    low: float
    """Figures lie between it ..."""
    high: float
    """... and this."""


LOGIT = Scale(logit, expit, lambda x: 1 / (x * (1 - x)), 0.0, 1.0)
"""Of rates, and of costs that are at most 1."""
LOG = Scale(np.log, lambda x: np.exp(np.minimum(x, 700.0)), lambda x: 1 / x, 0.0, math.inf)
"""Of costs without an upper bound."""
LINEAR = Scale(lambda x: x, lambda x: x, lambda x: 1.0, -math.inf, math.inf)
"""Of thresholds and of differences."""
