"""Our references: torchaudio (what needs it fails alone where it cannot be imported), and definitions."""

import importlib
import math

import numpy as np
import pytest


@pytest.fixture
def torchaudio():
    """torchaudio, with its Kaldi features."""
    importlib.import_module("torchaudio.compliance.kaldi")
    return importlib.import_module("torchaudio")


@pytest.fixture
def kaldi(torchaudio):
    return torchaudio.compliance.kaldi


@pytest.fixture
def slow_fbank():
    return _slow_fbank


def _slow_fbank(waveform, sample_rate, num_mel_bins, length_ms=25, shift_ms=10):
    """The definition, in float64, a frame and a filter at a time."""
    length, shift = int(sample_rate * length_ms / 1000), int(sample_rate * shift_ms / 1000)
    fft_size = 2 ** math.ceil(math.log2(length))

    def mel(frequency_hz):
        return 1127 * math.log(1 + frequency_hz / 700)

    corners = np.linspace(mel(20), mel(sample_rate / 2), num_mel_bins + 2)
    places = np.array([mel(k * sample_rate / fft_size) for k in range(fft_size // 2)])
    rows = []
    for start in range(0, len(waveform) - length + 1, shift):
        frame = waveform[start : start + length].astype(np.float64) * 32768
        frame = frame - frame.mean()
        frame = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(length)])
        frame *= [0.54 - 0.46 * math.cos(2 * math.pi * i / (length - 1)) for i in range(length)]
        basis = np.exp(-2j * np.pi * np.outer(np.arange(fft_size // 2), np.arange(length)) / fft_size)
        power = np.abs(basis @ frame) ** 2
        energies = []
        for left, centre, right in zip(corners, corners[1:], corners[2:], strict=False):
            weights = np.minimum((places - left) / (centre - left), (right - places) / (right - centre))
            energies.append(power @ np.maximum(weights, 0))
        rows.append(np.log(np.maximum(energies, 2.0**-23)))
    return np.array(rows)
