"""The bandwidth is what the spectrum says, whatever the sample rate."""

import numpy as np
import pytest
import scipy.signal

from wespeaker_qm.audio import bandwidth
from wespeaker_qm.audio.bandwidth import bandwidth_hz
from wespeaker_qm.audio.resample import resample_audio


def hissing_voice(num_samples: int, sample_rate: int) -> np.ndarray:
    """Noise that falls by 6 dB an octave from 100 Hz on, as a voice does, in steps of 16 bits."""
    noise = np.random.default_rng(0).standard_normal(num_samples)
    low = scipy.signal.lfilter([1], [1, -np.exp(-2 * np.pi * 100 / sample_rate)], noise)
    return rounded(0.05 * low / low.std())


def rounded(wave: np.ndarray) -> np.ndarray:
    return (np.round(wave * 32768) / 32768).astype(np.float32)


@pytest.mark.parametrize("own_rate", [8000, 11025, 16000, 44100])
def test_own_rate_is_seen_at_16_khz(own_rate: int) -> None:
    own = hissing_voice(3 * own_rate, own_rate)
    wave = rounded(resample_audio(own, own_rate, 16000))
    assert 0.9 * min(own_rate, 16000) / 2 < bandwidth_hz(wave, 16000) <= 1.1 * min(own_rate, 16000) / 2


@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_a_filter_is_seen_at_any_rate(sample_rate: int) -> None:
    wave = hissing_voice(2 * sample_rate, sample_rate)
    sos = scipy.signal.cheby2(14, 70, 3000, fs=sample_rate, output="sos")
    assert 2400 < bandwidth_hz(rounded(scipy.signal.sosfilt(sos, wave)), sample_rate) <= 3200


def test_level_and_blocks_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = hissing_voice(48000, 16000)
    expected = bandwidth_hz(wave, 16000)
    assert expected >= 7800
    assert bandwidth_hz(wave / 4, 16000) == expected
    monkeypatch.setattr(bandwidth, "_BLOCK_FRAMES", 7)
    assert bandwidth_hz(wave, 16000) == expected


def test_silence_and_what_is_too_short_have_none() -> None:
    assert bandwidth_hz(np.zeros(16000, np.float32), 16000) == 0
    assert bandwidth_hz(hissing_voice(511, 16000), 16000) == 0
    assert bandwidth_hz(hissing_voice(512, 16000), 16000) > 7000
