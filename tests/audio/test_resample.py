"""Another sample rate for whole recordings: tones keep their place, level and pitch, or vanish."""

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.resample import check_ratio, resample_audio, resample_blocks
from wespeaker_qm.audio.source import AudioError


def tone(sample_rate: int, duration_s: float = 1.0, frequency_hz: float = 440.0) -> np.ndarray:
    """A sine of amplitude 0.5, faded in and out."""
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    wave = 0.5 * np.sin(2 * np.pi * frequency_hz * time_s) * np.minimum(1, 20 * np.minimum(time_s, duration_s - time_s))
    return wave.astype(np.float32)


@pytest.mark.parametrize("orig_sr", [8000, 22050, 44100, 48000, 128000])
def test_resampling_keeps_what_fits_and_removes_what_would_alias(orig_sr: int) -> None:
    low = resample_audio(tone(orig_sr, frequency_hz=1000.0), orig_sr, 16000)
    expected = tone(16000, frequency_hz=1000.0)
    assert low.dtype == np.float32
    assert len(low) == 16000
    # The fades' corners are the largest difference; the sign of a delay would be a difference of 0.2 and more.
    assert np.abs(low - expected).max() < 2e-3
    if orig_sr > 16000:
        high = resample_audio(tone(orig_sr, frequency_hz=9000.0), orig_sr, 16000)
        assert 20 * np.log10(np.abs(high[2000:-2000]).max()) < -80


@pytest.mark.parametrize("orig_sr", [8000, 11025, 22050, 44100, 48000])
def test_torchaudio_with_the_same_filter_gives_the_same_samples(torchaudio, orig_sr: int) -> None:
    """A sinc of 93 zero crossings, cut off at 97 % of the lower Nyquist frequency, under a Kaiser window of beta 9."""
    waveform = 0.2 * np.random.default_rng(0).standard_normal(orig_sr).astype(np.float32)
    expected = torchaudio.functional.resample(
        torch.from_numpy(waveform),
        orig_sr,
        16000,
        lowpass_filter_width=93,
        rolloff=0.97,
        resampling_method="sinc_interp_kaiser",
        beta=9.0,
    ).numpy()
    found = resample_audio(waveform, orig_sr, 16000)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(("orig_sr", "new_sr"), [(999_983, 16000), (16000, 999_983), (191_999, 16000), (50_021, 16000)])
def test_rates_whose_filter_would_take_gigabytes_are_refused(orig_sr: int, new_sr: int) -> None:
    with pytest.raises(AudioError, match=f"sample rate {orig_sr} Hz, which is to {new_sr} Hz as {orig_sr} to {new_sr}"):
        resample_audio(np.zeros(10, dtype=np.float32), orig_sr, new_sr)


@pytest.mark.parametrize("rate", [4000, 7999, 11025, 22051, 37800, 44056, 47952, 64000, 88200, 176_400, 384_000])
def test_rates_in_use_are_not(rate: int) -> None:
    for other in (8000, 16000, 48000):
        check_ratio(rate, other)
        check_ratio(other, rate)


@pytest.mark.parametrize("orig_sr", [8000, 11025, 16000, 44100, 48000, 44056, 191_984])
@pytest.mark.parametrize("num_samples", [1, 5000, 200_003])
@pytest.mark.parametrize(("block_samples", "given"), [(1000, 997), (30_000, 7777), (30_000, 100_001), (2**19, 40_000)])
def test_resampling_in_blocks_gives_the_same_samples(
    monkeypatch: pytest.MonkeyPatch, orig_sr: int, num_samples: int, block_samples: int, given: int
) -> None:
    """To the last bit: what was packed of a long recording is what would be packed of it in one piece."""
    monkeypatch.setattr("wespeaker_qm.audio.resample.BLOCK_SAMPLES", block_samples)
    waveform = (0.4 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)
    parts = [waveform[start : start + given] for start in range(0, num_samples, given)]
    blocks = list(resample_blocks(iter(parts), orig_sr, 16000))
    np.testing.assert_array_equal(np.concatenate(blocks), resample_audio(waveform, orig_sr, 16000))
    if num_samples > 10 * block_samples and orig_sr not in (44056, 191_984):
        assert len(blocks) > 1


def test_resampling_in_blocks_refuses_what_resampling_refuses() -> None:
    with pytest.raises(AudioError, match="999983 to 16000"):
        list(resample_blocks(iter([np.zeros(10, dtype=np.float32)]), 999_983, 16000))
