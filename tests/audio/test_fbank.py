"""Fbank against WeSpeaker's numbers (oracles_data/fbank.npz), torchaudio, and the definition in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.fbank import Fbank, _add_dither_at_once, _add_dither_by_rows, normalise_mean
from wespeaker_qm.audio.mel import mel_filters
from wespeaker_qm.utils.errors import RecipeError

ORACLE = np.load(Path(__file__).parents[1] / "oracles_data" / "fbank.npz")


def oracle_waveform() -> torch.Tensor:
    return torch.from_numpy(ORACLE["wav"].astype(np.float32) / 32768)[None]


def test_wespeaker():
    features = Fbank()(oracle_waveform())
    torch.testing.assert_close(features[0], torch.from_numpy(ORACLE["fbank"]), atol=7e-4, rtol=0)
    assert abs(float(features.mean()) - float(ORACLE["fbank"].mean(dtype=np.float64))) < 4e-6
    torch.testing.assert_close(normalise_mean(features)[0], torch.from_numpy(ORACLE["fbank_cmn"]), atol=7e-4, rtol=0)


@pytest.mark.parametrize(("sample_rate", "num_mel_bins"), [(16000, 80), (16000, 40), (8000, 40)])
def test_definition(sample_rate, num_mel_bins, slow_fbank):
    waveform = oracle_waveform()[:, :2000]
    features = Fbank(sample_rate, num_mel_bins)(waveform)[0].numpy()
    expected = slow_fbank(waveform[0].numpy(), sample_rate, num_mel_bins)
    np.testing.assert_allclose(features, expected, atol=7e-4, rtol=0)


@pytest.mark.parametrize("amplitude", [1.0, 1e-2, 1e-4])
def test_torchaudio(amplitude, kaldi):
    waveform = amplitude * (2 * torch.rand(3, 4321, generator=torch.Generator().manual_seed(1)) - 1)
    features = Fbank()(waveform)
    for row, one in zip(features, waveform, strict=True):
        expected = kaldi.fbank(one[None] * 32768, num_mel_bins=80, window_type="hamming", dither=0.0)
        torch.testing.assert_close(row, expected, atol=7e-4, rtol=0)


def test_silence_is_the_logarithm_of_epsilon():
    features = Fbank()(torch.zeros(1, 4000))
    assert features.shape == (1, 23, 80)
    torch.testing.assert_close(features[0], torch.from_numpy(ORACLE["fbank_of_zeros"]), atol=1e-5, rtol=0)
    assert float(features[0, 0, 0]) == pytest.approx(-15.942385, abs=1e-6)


@pytest.mark.parametrize(("num_samples", "num_frames"), [(400, 1), (559, 1), (560, 2)])
def test_only_whole_frames(num_samples, num_frames):
    fbank = Fbank()
    features = fbank(oracle_waveform()[:, 8000 : 8000 + num_samples])
    assert features.shape == (1, num_frames, 80)
    assert fbank.num_frames(num_samples) == num_frames
    torch.testing.assert_close(features[0], torch.from_numpy(ORACLE[f"short_{num_samples}"]), atol=7e-4, rtol=0)


def test_shorter_than_a_frame_is_an_error():
    assert Fbank().num_frames(399) == 0
    with pytest.raises(RecipeError, match="399 samples is shorter than one frame of 400 samples at 16000 Hz"):
        Fbank()(torch.zeros(2, 399))


def test_lengths():
    fbank = Fbank()
    assert fbank.num_samples(200) == 32240
    for num_frames in (1, 2, 97, 200):
        assert fbank.num_frames(fbank.num_samples(num_frames)) == num_frames
        assert fbank.num_frames(fbank.num_samples(num_frames) - 1) == num_frames - 1


def test_a_row_does_not_depend_on_its_batch():
    waveform = torch.randn(5, 3000, generator=torch.Generator().manual_seed(2)) * 0.1
    features = Fbank()(waveform)
    for row, one in zip(features, waveform, strict=True):
        torch.testing.assert_close(row, Fbank()(one[None])[0], atol=1e-5, rtol=0)


def test_dither_is_noise_of_one_unit_on_every_frame(kaldi):
    fbank = Fbank(dither=1.0)
    frames = 4096
    waveform = torch.zeros(1, fbank.num_samples(frames))
    features = fbank(waveform, torch.tensor([0.0]).double())[0]
    # The same normals, added before the mean is removed, in 16-bit units, through torchaudio.
    noise = torch.randn(frames, 400, generator=torch.Generator().manual_seed(0xD17))
    expected = torch.cat(
        [kaldi.fbank(frame[None], num_mel_bins=80, window_type="hamming", dither=0.0) for frame in noise[:200]]
    )
    torch.testing.assert_close(features[:200], expected, atol=7e-4, rtol=0)
    # And what torchaudio draws itself has the same distribution: mean and deviation of each bin.
    torch.manual_seed(1)
    drawn = kaldi.fbank(waveform, num_mel_bins=80, window_type="hamming", dither=1.0)
    torch.testing.assert_close(features.mean(0), drawn.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(features.std(0), drawn.std(0), atol=0.1, rtol=0)
    # Frames are dithered one by one, though they overlap.
    centred = (features - features.mean(0))[:, 40]
    assert abs(float((centred[1:] * centred[:-1]).mean() / centred.square().mean())) < 0.1


def test_dither_starts_where_it_is_told_and_goes_round():
    fbank = Fbank(dither=1.0)
    waveform = torch.zeros(3, 16000)
    starts = torch.tensor([0.25, 0.5, 0.999], dtype=torch.float64)
    features = fbank(waveform, starts)
    assert torch.equal(features, fbank(waveform, starts))
    assert len(torch.unique(features[:, 0, 0])) == 3
    start = int(0.999 * 4096)
    beginning = fbank(waveform[:1], torch.zeros(1, dtype=torch.float64))[0]
    assert torch.equal(features[2, 4096 - start :], beginning[: 98 - 4096 + start])
    with pytest.raises(ValueError, match="dither needs a start"):
        fbank(waveform)
    with pytest.raises(ValueError, match="for each of 3 rows, found 2"):
        fbank(waveform, starts[:2])


def test_dither_at_once_equals_dither_by_rows():
    bank = torch.randn(50, 7, generator=torch.Generator().manual_seed(5))
    by_rows, at_once = torch.ones(3, 120, 7), torch.ones(3, 120, 7)
    first = torch.tensor([0, 30, 49])
    _add_dither_by_rows(by_rows, bank, first)
    _add_dither_at_once(at_once, bank, first)
    assert torch.equal(by_rows, at_once)
    assert torch.equal(by_rows[1, 20:70], 1 + bank)


def test_dither_of_zero_ignores_the_start():
    start = torch.tensor([0.5]).double()
    torch.testing.assert_close(Fbank()(oracle_waveform(), start), Fbank()(oracle_waveform()), atol=0, rtol=0)


def test_many_rows_equal_few():
    waveform = torch.randn(11, 16000, generator=torch.Generator().manual_seed(4)) * 0.1
    start = torch.linspace(0, 0.9, 11, dtype=torch.float64)
    fbank = Fbank(dither=1.0)
    together = fbank(waveform, start)  # more than the frames that are worked on at a time
    alone = torch.cat([fbank(waveform[row : row + 1], start[row : row + 1]) for row in range(11)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_autocast_and_precision_change_nothing():
    expected = Fbank()(oracle_waveform())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = Fbank()(oracle_waveform())
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    assert torch.equal(Fbank()(oracle_waveform().double()), expected)


def test_the_filters_are_summed_in_float32_whatever_the_switches_say(products):
    with products:
        Fbank()(oracle_waveform())
    assert products.are_exact


def test_is_no_part_of_a_checkpoint():
    assert Fbank().state_dict() == {}
    assert list(Fbank().parameters()) == []


def test_filters_are_triangles_that_sum_to_one_between_the_first_and_last_top():
    filters = mel_filters(16000, 512, 80)
    assert filters.shape == (80, 257)
    assert float(filters.min()) == 0 and float(filters.max()) <= 1
    np.testing.assert_allclose(filters.sum(axis=0)[3:245], 1, rtol=1e-12)
    assert float(filters[:, 0].sum()) == 0 and float(filters[:, 256].sum()) == 0


def test_mean_normalisation():
    features = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(6)) + 5
    normalised = normalise_mean(features)
    torch.testing.assert_close(normalised.mean(dim=1), torch.zeros(3, 8), atol=1e-6, rtol=0)
    torch.testing.assert_close(features - normalised, features.mean(dim=1, keepdim=True).expand_as(features))


def test_dither_is_looked_up_on_the_device_of_the_frames():
    """The device "meta" has shapes and no values, and refuses to meet a tensor of the CPU."""
    frames, bank = torch.zeros(2, 6, 400, device="meta"), torch.zeros(10, 400, device="meta")
    _add_dither_at_once(frames, bank, torch.tensor([3, 9], device="meta"))
    assert frames.device.type == "meta"


@pytest.mark.parametrize(("frame_length_ms", "fft_size"), [(25, 512), (32, 512), (513 / 16, 1024), (5, 128)])
def test_frames_of_any_length_have_the_next_power_of_two(frame_length_ms, fft_size, kaldi):
    waveform = 0.1 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
    fbank = Fbank(num_mel_bins=20, frame_length_ms=frame_length_ms)
    assert fbank.fft_size == fft_size
    expected = kaldi.fbank(
        waveform * 32768, num_mel_bins=20, window_type="hamming", dither=0.0, frame_length=frame_length_ms
    )
    torch.testing.assert_close(fbank(waveform)[0], expected, atol=7e-4, rtol=0)


def test_nothing_of_it_is_in_a_checkpoint():
    assert Fbank(dither=1.0).state_dict() == {}
