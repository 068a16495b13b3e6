"""The voice-blind baseline."""

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.augment import shape_spectrum
from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.ltas import long_term_average_spectrum
from wespeaker_qm.utils.errors import RecipeError


def noise(seed: int, num_samples: int = 32000) -> np.ndarray:
    return 0.05 * np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


def coloured(seed: int, gains_db: list[float]) -> np.ndarray:
    return shape_spectrum(torch.from_numpy(noise(seed))[None], torch.tensor([gains_db]))[0].numpy()


def test_definition():
    waveform = noise(0)
    features = Fbank(num_mel_bins=40)(torch.from_numpy(waveform)[None])[0].double().numpy()
    expected = features.mean(axis=0) - features.mean()
    vector = long_term_average_spectrum(waveform, Fbank(num_mel_bins=40))
    assert vector.shape == (40,) and vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_level_plays_no_part():
    loud = long_term_average_spectrum(noise(1), Fbank())
    np.testing.assert_allclose(long_term_average_spectrum(noise(1) / 8, Fbank()), loud, atol=1e-3)


def test_order_in_time_plays_no_part():
    blocks = noise(2).reshape(8, 4000)
    forwards = long_term_average_spectrum(blocks.reshape(-1), Fbank())
    backwards = long_term_average_spectrum(blocks[::-1].reshape(-1).copy(), Fbank())
    np.testing.assert_allclose(forwards, backwards, atol=0.05)


def test_tells_channels_apart():
    bright, dark = [0.0, 3.0, 6.0, 9.0], [0.0, -3.0, -6.0, -9.0]
    waveforms = [coloured(seed, gains_db) for gains_db in (bright, dark) for seed in (3, 4)]
    vectors = [long_term_average_spectrum(waveform, Fbank()) for waveform in waveforms]
    same = [np.linalg.norm(vectors[0] - vectors[1]), np.linalg.norm(vectors[2] - vectors[3])]
    different = [np.linalg.norm(vectors[i] - vectors[j]) for i in (0, 1) for j in (2, 3)]
    assert max(same) * 5 < min(different)


def test_too_short_is_an_error():
    with pytest.raises(RecipeError, match="shorter than one frame"):
        long_term_average_spectrum(noise(5, 100), Fbank())
