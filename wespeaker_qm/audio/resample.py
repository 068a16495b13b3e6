"""Another sample rate for a whole recording, on the CPU. What plays batches faster or slower is speed.py."""

import functools
from collections.abc import Iterable, Iterator
from math import gcd
from typing import Any

import numpy as np

from wespeaker_qm.audio.source import BLOCK_SAMPLES, AudioError

MAX_TERM = 50_000
"""Largest term of the ratio of two rates: the filter has 192 times as many taps, and takes 400 MB to design."""


def resample_audio(waveform: np.ndarray, orig_sr: int, new_sr: int) -> np.ndarray:
    """Change the sample rate by polyphase filtering, offline quality: 90 dB stop band, flat to 94 % of Nyquist.

    Args:
        waveform: (S,) float32.
        orig_sr: its sample rate in Hz.
        new_sr: the wanted sample rate in Hz.

    Returns:
        (ceil(S * new_sr / orig_sr),) float32, in time with the input (no delay), clipped to [-1, 1].

    Raises:
        AudioError: as :func:`check_ratio`.
    """
    if orig_sr == new_sr:
        return waveform.astype(np.float32, copy=False)
    from scipy.signal import resample_poly

    check_ratio(orig_sr, new_sr)
    divisor = gcd(orig_sr, new_sr)
    up, down = new_sr // divisor, orig_sr // divisor
    lowpass: Any = _resampling_filter(max(up, down))  # scipy's stubs know no array here
    resampled: np.ndarray = resample_poly(waveform.astype(np.float32), up, down, window=lowpass)
    clipped: np.ndarray = np.clip(resampled, -1.0, 1.0).astype(np.float32)
    return clipped


def resample_blocks(blocks: Iterable[np.ndarray], orig_sr: int, new_sr: int) -> Iterator[np.ndarray]:
    """:func:`resample_audio` for a recording in blocks: the same samples, in blocks of another size.

    Args:
        blocks: its samples in order, each (S,) float32.
        orig_sr: as there.
        new_sr: as there.

    Raises:
        AudioError: as there.
    """
    if orig_sr == new_sr:
        yield from blocks
        return
    check_ratio(orig_sr, new_sr)
    up, down, margin = _reach(orig_sr, new_sr)
    # A multiple of `down`: a block begins at a sample of the result.
    step = max(margin, BLOCK_SAMPLES // down * down)
    held, before = np.zeros(0, dtype=np.float32), 0  # what is before the block was resampled already
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= before + step + margin:
            resampled = resample_audio(held[: before + step + margin], orig_sr, new_sr)
            yield resampled[before // down * up : (before + step) // down * up]
            held, before = held[before + step - margin :], margin
    yield resample_audio(held, orig_sr, new_sr)[before // down * up :]


def needed_samples(num_samples: int, orig_sr: int, new_sr: int) -> int:
    """How many samples at ``orig_sr`` the first ``num_samples`` at ``new_sr`` depend on, at most."""
    up, down, margin = _reach(orig_sr, new_sr)
    return -(-num_samples * down // up) + margin


def _reach(orig_sr: int, new_sr: int) -> tuple[int, int, int]:
    """The terms of the ratio new to old; how far the filter reaches at most, in samples, a multiple of the second."""
    divisor = gcd(orig_sr, new_sr)
    up, down = new_sr // divisor, orig_sr // divisor
    return up, down, down * (_half_length(max(up, down)) // (up * down) + 2)


def check_ratio(orig_sr: int, new_sr: int) -> None:
    """Refuse rates that :func:`resample_audio` would need gigabytes for; none in use has such a ratio to another.

    Raises:
        AudioError: so they are; the message is the reason alone.
    """
    divisor = gcd(orig_sr, new_sr)
    if max(orig_sr, new_sr) // divisor > MAX_TERM:
        raise AudioError(
            f"sample rate {orig_sr} Hz, which is to {new_sr} Hz as {orig_sr // divisor} to {new_sr // divisor}, "
            f"expected a ratio of numbers up to {MAX_TERM}; mend its header, or convert it to a usual rate"
        )


@functools.lru_cache(maxsize=16)
def _resampling_filter(max_rate: int) -> np.ndarray:
    """Kaiser-windowed sinc at the common rate; the cut-off (-6 dB) is 97 % of the lower Nyquist frequency."""
    from scipy.signal import firwin

    half_length = _half_length(max_rate)
    return firwin(2 * half_length + 1, 0.97 / max_rate, window=("kaiser", 9.0)).astype(np.float32)


def _half_length(max_rate: int) -> int:
    return 96 * max_rate
