"""Which computation of the loss a device and a number of classes get: the one table.

All of them compute the same, exactly; they differ in time and memory alone.
"""

import importlib.util
import math
from collections.abc import Mapping
from enum import Enum

import torch


class Way(Enum):
    """How the loss and its gradients are computed."""

    DENSE = "all logits, in PyTorch"
    FILTERED = "the candidates that a filter leaves, in PyTorch; dense where they are many"
    FUSED_ROWS = "all logits, by kernels on rows, without waiting for the device"
    FUSED_FILTER = "the candidates of a filter, by kernels on them, without waiting for the device"


Rows = tuple[tuple[float, Way], ...]

PLAIN: Rows = ((1024, Way.DENSE), (math.inf, Way.FILTERED))
"""What runs everywhere: up to so many classes, this way. Few classes are computed before any filter has begun."""

WAYS: Mapping[str, Rows] = {
    "cpu": PLAIN,
    "cuda": ((2**16, Way.FUSED_ROWS), (math.inf, Way.FUSED_FILTER)),
}
"""Type of device -> up to so many classes of this process, this way. Other devices, and what kernels cannot do, get
`PLAIN`; at alpha 1 nothing is sparse, and all logits are computed in the place of a filter."""

CHUNK_LOGITS: Mapping[str, int] = {"cpu": 2**19}
"""Type of device -> logits of a batch that are worked on together; here, what stays in a core's cache."""

_MANY_CHUNK_LOGITS = 2**26  # of other devices, where starting an operation is what takes time: 256 MiB
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_KERNELS = {Way.FUSED_ROWS, Way.FUSED_FILTER}


def way_of(device: torch.device, num_classes: int, *, kernels_apply: bool = True) -> Way:
    """The row of the table.

    Args:
        device: that computes.
        num_classes: of this process.
        kernels_apply: whether the arguments are such as kernels take. They need Triton and, of NVIDIA's GPUs, Ampere.
    """
    way = _row(WAYS.get(device.type, PLAIN), num_classes)
    if way in _KERNELS and not (kernels_apply and _runs_kernels(device)):
        return _row(PLAIN, num_classes)
    return way


def chunk_logits(device: torch.device) -> int:
    """How many logits of a batch are worked on together on a device."""
    return CHUNK_LOGITS.get(device.type, _MANY_CHUNK_LOGITS)


def _row(rows: Rows, num_classes: int) -> Way:
    return next(way for up_to, way in rows if num_classes <= up_to)


def _runs_kernels(device: torch.device) -> bool:
    return _HAS_TRITON and (device.type != "cuda" or torch.cuda.get_device_properties(device).major >= 8)
