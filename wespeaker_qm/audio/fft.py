"""Fourier transforms of many rows, by plans that a GPU has made before.

cuFFT makes a plan for each number of rows that it has not met, which takes longer than the transform: and how many rows
of a batch are reverberated, or how many frames a batch of utterances has, is another number nearly every time. So rows
of zeros fill a batch up to a power of two there. On a CPU a plan costs nothing, and nothing is added.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def rfft(rows: Tensor, size: int) -> Tensor:
    """Spectra (..., size / 2 + 1) of real rows (..., S), each cut to ``size`` or filled up with zeros."""
    return _transformed(torch.fft.rfft, rows, size)


def irfft(spectra: Tensor, size: int) -> Tensor:
    """Real rows (..., size) of spectra (..., size / 2 + 1)."""
    return _transformed(torch.fft.irfft, spectra, size)


def _transformed(transform: Callable[..., Tensor], rows: Tensor, size: int) -> Tensor:
    if rows.device.type == "cpu":
        return transform(rows, n=size)
    together = rows.flatten(0, -2)
    filling = max(0, 2 ** (len(together) - 1).bit_length() - len(together))
    filled = transform(functional.pad(together, (0, 0, 0, filling)), n=size)
    return filled[: len(together)].view(*rows.shape[:-1], filled.shape[-1])
