"""Kaldi's filter bank as numbers: what its two computations, in PyTorch and in NumPy, have in common. No torch here.

Legend: N frame length in samples, K FFT size, F mel bins.
"""

import math

import numpy as np
from numpy.typing import NDArray

PREEMPHASIS = 0.97
LOWEST_FREQUENCY_HZ = 20.0
# Kaldi reads 16-bit integers; waveforms here lie in [-1, 1].
INT16_SCALE = 32768.0
FLOOR = float(np.finfo(np.float32).eps)
"""The least energy in a mel bin, whose logarithm is -15.942385."""


def fft_size(frame_length: int) -> int:
    """K: the smallest power of two that holds a frame.

    >>> fft_size(400), fft_size(512)
    (512, 512)
    """
    return 1 << (frame_length - 1).bit_length()


def hamming_window(frame_length: int) -> NDArray[np.float64]:
    """The Hamming window (N,), which brings samples in [-1, 1] to the 16-bit range, too."""
    return np.hamming(frame_length) * INT16_SCALE


def mel_filters(
    sample_rate: int, fft_size: int, num_mel_bins: int, highest_hz: float | None = None
) -> NDArray[np.float64]:
    """Kaldi's triangular filters (F, K / 2 + 1): equally wide in mel(f) = 1127 ln(1 + f / 700).

    The filters run from 20 Hz to ``highest_hz``, by default half the sample rate; the frequency of half the sample rate
    itself has no weight.
    """
    lowest, highest = _mel(LOWEST_FREQUENCY_HZ), _mel(sample_rate / 2 if highest_hz is None else highest_hz)
    width = (highest - lowest) / (num_mel_bins + 1)
    left = lowest + width * np.arange(num_mel_bins, dtype=np.float64)[:, None]
    frequency_hz = np.arange(fft_size // 2 + 1, dtype=np.float64) * (sample_rate / fft_size)
    position = (1127.0 * np.log1p(frequency_hz / 700.0) - left) / width  # 0 at the left corner, 1 at the top
    filters = np.minimum(position, 2.0 - position).clip(min=0.0)
    filters[:, -1] = 0.0
    return filters


def _mel(frequency_hz: float) -> float:
    return 1127.0 * math.log1p(frequency_hz / 700.0)
