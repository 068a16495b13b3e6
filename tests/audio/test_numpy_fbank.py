"""Features in NumPy against the definition in float64 and against those in PyTorch."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.numpy_fbank import NumpyFbank, normalise_mean
from wespeaker_qm.utils.errors import RecipeError

ORACLE = np.load(Path(__file__).parents[1] / "oracles_data" / "fbank.npz")


def voice(sample_rate, duration_s=1.3):
    """A buzz, noise, and a small offset."""
    rng = np.random.default_rng(3)
    time_s = np.arange(int(sample_rate * duration_s)) / sample_rate
    buzz = sum(math.exp(-k / 9) * np.sin(2 * np.pi * 117 * k * time_s + k) for k in range(1, 30))
    waveform = 0.08 * buzz * (1 + np.sin(9 * time_s)) + 0.003 * rng.standard_normal(len(time_s)) + 0.005
    return waveform.astype(np.float32)


@pytest.mark.parametrize(
    ("sample_rate", "num_mel_bins", "length_ms", "shift_ms"),
    [(16000, 80, 25, 10), (16000, 40, 25, 10), (8000, 23, 25, 10), (22050, 64, 20, 7.5)],
)
def test_equals_the_definition_and_pytorch(sample_rate, num_mel_bins, length_ms, shift_ms, slow_fbank):
    waveform = voice(sample_rate)
    frames = Frames.of(sample_rate, length_ms, shift_ms)
    features = NumpyFbank(sample_rate, num_mel_bins, frames)(waveform)
    assert features.dtype == np.float32
    slow = slow_fbank(waveform, sample_rate, num_mel_bins, length_ms, shift_ms)
    np.testing.assert_allclose(features, slow, rtol=0, atol=2e-6)
    fbank = Fbank(sample_rate, num_mel_bins, length_ms, shift_ms)
    np.testing.assert_allclose(features, fbank(torch.from_numpy(waveform)[None])[0].numpy(), rtol=1e-4, atol=1e-5)


def test_equals_wespeaker():
    features = NumpyFbank(16000, 80)(ORACLE["wav"].astype(np.float32) / 32768)
    np.testing.assert_allclose(features, ORACLE["fbank"], rtol=0, atol=1e-3)  # float32's error in theirs
    np.testing.assert_allclose(normalise_mean(features), ORACLE["fbank_cmn"], rtol=0, atol=1e-3)


def test_silence_is_at_the_floor():
    np.testing.assert_array_equal(NumpyFbank(16000, 80)(np.zeros(4000, np.float32)), np.float32(-15.942385))


def test_a_long_waveform_is_read_in_parts_and_comes_out_the_same():
    class Recording:
        longest = 0

        def __len__(self):
            return len(long)

        def __getitem__(self, samples):
            part = long[samples]
            self.longest = max(self.longest, len(part))
            return part

    long, recording = np.tile(voice(16000), 20), Recording()
    fbank = NumpyFbank(16000, 20)
    features = fbank(recording)
    assert len(features) == fbank.frames.num_frames(len(long)) > 2 * 800
    assert recording.longest <= fbank.frames.num_samples(800)
    np.testing.assert_array_equal(features[1000:1010], fbank(long[160000:])[:10])


def test_too_short():
    with pytest.raises(RecipeError, match="399 samples is shorter than one frame of 400 samples at 16000 Hz"):
        NumpyFbank(16000, 80)(np.zeros(399, np.float32))


def test_the_mean_of_a_long_recording_loses_no_digits():
    features = np.full((200_000, 1), 17.3, np.float32)
    features[::2] += 0.1
    mean = features.astype(np.float64).mean()
    np.testing.assert_allclose(normalise_mean(features)[:2, 0], features[:2, 0] - mean, atol=2e-6)


def test_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import wespeaker_qm.audio.numpy_fbank"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
