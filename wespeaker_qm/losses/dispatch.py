"""Which computation of the loss a device and a number of classes get: the one table.

All of them compute the same, exactly; they differ in time and memory alone.
"""

import math
from collections.abc import Mapping
from enum import Enum

import torch


class Way(Enum):
    """How the loss and its gradients are computed."""

    DENSE = "all logits, in PyTorch"
    FILTERED = "the candidates that a filter leaves, in PyTorch; dense where they are many"


PLAIN: tuple[tuple[float, Way], ...] = ((1024, Way.DENSE), (math.inf, Way.FILTERED))
"""What runs everywhere: up to so many classes, this way. Few classes are computed before any filter has begun."""

WAYS: Mapping[str, tuple[tuple[float, Way], ...]] = {"cpu": PLAIN}
"""Type of device -> up to so many classes of this process, this way; other devices get `PLAIN`."""

CHUNK_LOGITS: Mapping[str, int] = {"cpu": 2**19}
"""Type of device -> logits of a batch that are worked on together; here, what stays in a core's cache."""

_MANY_CHUNK_LOGITS = 2**26  # of other devices, where starting an operation is what takes time: 256 MiB


def way_of(device: torch.device, num_classes: int) -> Way:
    """The row of the table for classes of this process on a device."""
    rows = WAYS.get(device.type, PLAIN)
    return next(way for up_to, way in rows if num_classes <= up_to)


def chunk_logits(device: torch.device) -> int:
    """How many logits of a batch are worked on together on a device."""
    return CHUNK_LOGITS.get(device.type, _MANY_CHUNK_LOGITS)
