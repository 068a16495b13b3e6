"""The features of :mod:`wespeaker_qm.audio.fbank` where there is no torch: one waveform at a time, in NumPy.

Legend: S samples, T frames, N frame length in samples, K FFT size, F mel bins.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.mel import FLOOR, PREEMPHASIS, fft_size, hamming_window, mel_filters
from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.utils.errors import RecipeError

_FRAMES_TOGETHER = 800


class NumpyFbank:
    """Log mel energies, equal to those of :class:`wespeaker_qm.audio.fbank.Fbank` without dither up to round-off.

    Args:
        sample_rate: samples a second.
        num_mel_bins: F.
        frames: how a waveform is divided; by default 25 ms every 10 ms.
    """

    def __init__(self, sample_rate: int, num_mel_bins: int, frames: Frames | None = None) -> None:
        self.sample_rate = sample_rate
        self.num_mel_bins = num_mel_bins
        self.frames = Frames.of(sample_rate, 25, 10) if frames is None else frames
        self._fft_size = fft_size(self.frames.length)
        self._window = hamming_window(self.frames.length)
        self._filters = mel_filters(sample_rate, self._fft_size, num_mel_bins)

    def __call__(self, waveform: Waveform) -> NDArray[np.float32]:
        """Features (T, F) of a waveform (S,) in [-1, 1], which is read a part at a time.

        Raises:
            RecipeError: it is shorter than a frame.
        """
        frames = self.frames
        num_frames = frames.num_frames(len(waveform))
        if not num_frames:
            raise RecipeError(
                f"fbank: a waveform of {len(waveform)} samples is shorter than one frame of {frames.length} samples at "
                f"{self.sample_rate} Hz; leave out such recordings"
            )
        features = np.empty((num_frames, self.num_mel_bins), np.float32)
        for first in range(0, num_frames, _FRAMES_TOGETHER):
            end = min(first + _FRAMES_TOGETHER, num_frames)
            start = first * frames.shift
            part = np.asarray(waveform[start : start + frames.num_samples(end - first)], np.float64)
            features[first:end] = self._log_energies(part)
        return features

    def _log_energies(self, waveform: NDArray[np.float64]) -> NDArray[np.float64]:
        samples = sliding_window_view(waveform, self.frames.length)[:: self.frames.shift]  # (T, N)
        frames = samples - samples.mean(axis=1, keepdims=True)
        # As in Kaldi, the sample before a frame's first is taken to equal it.
        frames[:, 1:] -= PREEMPHASIS * frames[:, :-1]
        frames[:, 0] *= 1 - PREEMPHASIS
        frames *= self._window
        spectrum = np.fft.rfft(frames, self._fft_size)
        energies = (spectrum.real**2 + spectrum.imag**2) @ self._filters.T
        return np.log(np.maximum(energies, FLOOR))


def normalise_mean(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cepstral mean normalisation: features (T, F) less their mean over time."""
    return features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
