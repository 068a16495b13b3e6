"""How far up the spectrum of a recording reaches: what a telephone has cut off stays off at any sample rate."""

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.audio.waveform import Waveform

BELOW_PEAK_DB = 60.0
"""What lies further than this below the loudest band counts as nothing: a resampling filter's stop band, hiss."""
ABOVE_ROUNDING_DB = 10.0
"""And so does what is not this far above the noise of rounding to 16 bits, 1/12 of a squared step a sample."""
STEP_HZ = 100
_SMOOTHED_HZ = 250
_ROUNDING_POWER = 1 / 12
_BLOCK_FRAMES = 2000


def bandwidth_hz(waveform: Waveform, sample_rate: int) -> int:
    """Highest frequency at which the mean power spectrum of a recording holds anything, in Hz.

    Found in the spectrum, not from the header: a recording of 8 kHz has about 4,000 Hz at any rate it is brought to.

    Args:
        waveform: (S,) in [-1, 1], rounded to 16 bits.
        sample_rate: its samples a second.

    Returns:
        A multiple of :data:`STEP_HZ`; 0 for silence, and for less than a frame of 32 ms.
    """
    length = 1 << round(np.log2(0.032 * sample_rate))
    window = np.hanning(length)
    shift = length // 2
    num_frames = max(0, 1 + (len(waveform) - length) // shift)
    if not num_frames:
        return 0
    power = np.zeros(length // 2 + 1)
    for first in range(0, num_frames, _BLOCK_FRAMES):
        end = min(first + _BLOCK_FRAMES, num_frames)
        samples = 32768 * waveform[first * shift : (end - 1) * shift + length]
        frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::shift]
        power += _power(frames * window).sum(axis=0)
    power /= num_frames * np.square(window).sum()  # white noise gives its variance in every bin
    width = max(1, round(_SMOOTHED_HZ * length / sample_rate))
    smooth = np.convolve(power, np.full(width, 1 / width), mode="same")
    least = max(smooth.max() * 10 ** (-BELOW_PEAK_DB / 10), _ROUNDING_POWER * 10 ** (ABOVE_ROUNDING_DB / 10))
    held = np.flatnonzero(smooth > least)
    return int(round(held[-1] * sample_rate / length / STEP_HZ) * STEP_HZ) if len(held) else 0


def _power(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(frames)
    return np.square(spectrum.real) + np.square(spectrum.imag)
