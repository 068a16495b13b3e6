"""Augmentation against WeSpeaker's numbers (oracles_data/augment.npz), extremes, and constructed signals."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal
from scipy.fft import next_fast_len

from wespeaker_qm.audio.augment import (
    add_hiss,
    band_limit,
    high_pass,
    mix_noise,
    peak_normalise,
    reverberate,
    shape_spectrum,
    spec_augment,
)

ORACLE = np.load(Path(__file__).parents[1] / "oracles_data" / "augment.npz")
EDGE = 400


def oracle(name: str) -> torch.Tensor:
    return torch.from_numpy(ORACLE[name].astype(np.float32))[None]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tone(frequency_hz: float, num_samples: int = 8000) -> torch.Tensor:
    time = torch.arange(num_samples, dtype=torch.float64) / 16000
    return torch.sin(2 * math.pi * frequency_hz * time).float()


def gain_db(output: torch.Tensor, waveform: torch.Tensor) -> torch.Tensor:
    """Level change of each row, its ends left out."""
    middle = slice(EDGE, -EDGE)
    return 10 * torch.log10(output[:, middle].square().mean(1) / waveform[:, middle].square().mean(1))


class TestWeSpeaker:
    def test_reverberation(self):
        output = peak_normalise(reverberate(oracle("wav") / 32768, oracle("rir_file")))
        # The oracle's own rounding, against float64, is 3.5e-7.
        torch.testing.assert_close(output, oracle("out_reverb"), atol=4e-7, rtol=0)

    @pytest.mark.parametrize("category", ["noise", "speech", "music"])
    def test_noise(self, category):
        start = int(ORACLE["noise_chunk_start"])
        snr_db = torch.tensor([json.loads(str(ORACLE["snr"]))[category]])
        added = oracle("noise_file")[:, start : start + 8000] / 32768
        output = peak_normalise(mix_noise(oracle("wav") / 32768, added, snr_db))
        torch.testing.assert_close(output, oracle(f"out_{category}"), atol=2.5e-7, rtol=0)


class TestReverberate:
    @pytest.mark.parametrize("scale", [1.0, -1.0, 1e-4, 32767.0])
    def test_unit_impulse_is_the_identity_but_for_its_sign(self, scale):
        waveform = noise(2, 1000)
        rir = torch.zeros(2, 300)
        rir[:, 0] = scale
        torch.testing.assert_close(reverberate(waveform, rir), math.copysign(1, scale) * waveform, atol=1e-6, rtol=0)

    def test_late_impulse_delays(self):
        waveform, rir = noise(1, 1000), torch.zeros(1, 300)
        rir[0, 100] = 1
        output = reverberate(waveform, rir)
        torch.testing.assert_close(output[:, 100:], waveform[:, :900], atol=1e-6, rtol=0)
        torch.testing.assert_close(output[:, :100], torch.zeros(1, 100), atol=1e-6, rtol=0)

    # 126 makes an FFT of odd size (1,125), 127 one that a sample less would make too short.
    @pytest.mark.parametrize("rir_samples", [1, 7, 126, 127, 999, 1000, 1001, 5000])
    def test_definition(self, rir_samples):
        waveform, rir = noise(3, 1000), noise(3, rir_samples, seed=1)
        output = reverberate(waveform, rir)
        for row, one, response in zip(output, waveform.double().numpy(), rir.double().numpy(), strict=True):
            expected = np.convolve(one, response)[:1000] / math.sqrt((response**2).sum())
            np.testing.assert_allclose(row.numpy(), expected, atol=2e-6, rtol=0)

    def test_zeros_after_a_rir_change_nothing(self):
        waveform, rir = noise(1, 1000), noise(1, 200, seed=1)
        padded = torch.nn.functional.pad(rir, (0, 777))
        torch.testing.assert_close(reverberate(waveform, rir), reverberate(waveform, padded), atol=1e-6, rtol=0)


class TestMixNoise:
    def test_huge_ratio_is_the_clean_signal(self):
        waveform = noise(2, 1000)
        assert torch.equal(mix_noise(waveform, noise(2, 1000, seed=1), torch.tensor([1000.0, 1000.0])), waveform)

    def test_ratio_is_exact(self):
        # A square wave has level 0 dB (its mean square is 1); what stays is 1e-4 of the guard against silence.
        waveform = torch.tensor([1.0, -1.0]).repeat(500)[None].repeat(4, 1)
        added = 0.5 * torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(250)[None].repeat(4, 1)
        wanted = torch.tensor([-5.0, 0.0, 7.5, 30.0])
        difference = mix_noise(waveform, added, wanted) - waveform
        measured = 10 * torch.log10(waveform.square().mean(1) / difference.square().mean(1))
        torch.testing.assert_close(measured, wanted, atol=2e-3, rtol=0)

    def test_silent_speech_is_not_drowned(self):
        output = mix_noise(torch.zeros(1, 1000), torch.ones(1, 1000), torch.tensor([0.0]))
        torch.testing.assert_close(output, torch.full((1, 1000), 1e-2), atol=1e-5, rtol=0)

    def test_silent_noise_adds_nothing(self):
        waveform = noise(1, 1000)
        assert torch.equal(mix_noise(waveform, torch.zeros(1, 1000), torch.tensor([0.0])), waveform)


class TestPeakNormalise:
    def test_each_row_by_its_own_peak(self):
        output = peak_normalise(torch.tensor([[0.25, -0.5], [2.0, 1.0], [0.0, 0.0]]))
        expected = torch.tensor([[0.25 / 0.5001, -0.5 / 0.5001], [2 / 2.0001, 1 / 2.0001], [0.0, 0.0]])
        torch.testing.assert_close(output, expected)

    def test_stays_within_one(self):
        assert float(peak_normalise(1e6 * noise(3, 100)).abs().max()) <= 1


class TestBandLimit:
    def test_passes_below_and_stops_above(self):
        waveform = torch.stack([tone(1000), tone(3700), tone(4100), tone(7000)])
        change_db = gain_db(band_limit(waveform, torch.full((4,), 3900.0)), waveform)
        torch.testing.assert_close(change_db[:2], torch.zeros(2), atol=1e-2, rtol=0)
        assert float(change_db[2:].max()) < -60

    def test_half_of_the_amplitude_at_the_cutoff(self):
        waveform = torch.stack([tone(3000), tone(5000)])
        change_db = gain_db(band_limit(waveform, torch.tensor([3000.0, 5000.0])), waveform)
        torch.testing.assert_close(change_db, torch.full((2,), -6.02), atol=2e-2, rtol=0)

    def test_cutoff_above_everything_is_the_identity(self):
        waveform = noise(2, 3000)
        torch.testing.assert_close(band_limit(waveform, torch.full((2,), 8100.0)), waveform, atol=1e-6, rtol=0)

    def test_the_end_does_not_ring_into_the_start(self):
        waveform = torch.zeros(1, 4000)
        waveform[:, -20:] = 1
        assert float(band_limit(waveform, torch.tensor([3900.0]))[:, :3000].abs().max()) < 1e-4

    @pytest.mark.parametrize("num_samples", [1, 2, 100, 513])
    def test_short_waveforms(self, num_samples):
        output = band_limit(noise(1, num_samples), torch.tensor([3900.0]))
        assert output.shape == (1, num_samples)
        assert bool(output.isfinite().all())


class TestHighPass:
    def test_gains_are_those_of_a_butterworth_filter_of_second_order(self):
        """From scipy's analogue design, which knows nothing of the closed form."""
        frequencies, cutoffs = (100, 200, 400, 3000), (100.0, 400.0, 200.0, 300.0)
        waveform = torch.stack([tone(frequency) for frequency in frequencies])
        change_db = gain_db(high_pass(waveform, torch.tensor(cutoffs)), waveform)
        for found, frequency, cutoff in zip(change_db, frequencies, cutoffs, strict=True):
            _, response = signal.freqs(*signal.butter(2, cutoff, "high", analog=True), worN=[frequency])
            assert float(found) == pytest.approx(20 * math.log10(abs(response[0])), abs=0.02)

    def test_nothing_is_left_of_a_constant(self):
        assert float(high_pass(torch.ones(1, 4000), torch.tensor([50.0])).abs().max()) < 1e-3

    def test_each_row_by_its_own_cutoff(self):
        waveform = noise(2, 3000)
        together = high_pass(waveform, torch.tensor([50.0, 400.0]))
        torch.testing.assert_close(together[1:], high_pass(waveform[1:], torch.tensor([400.0])), atol=1e-6, rtol=0)


class TestAddHiss:
    @pytest.mark.parametrize("level", [1.0, 1e-3])
    def test_the_ratio_is_exact_at_any_level(self, level):
        waveform, snr_db = level * noise(3, 4000), torch.tensor([0.0, 15.0, 50.0])
        hiss = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(1000).repeat(3, 1)
        difference = add_hiss(waveform, hiss, snr_db) - waveform
        measured = 10 * torch.log10(waveform.square().mean(1) / difference.square().mean(1))
        torch.testing.assert_close(measured, snr_db, atol=2e-3, rtol=0)

    def test_silence_stays_silence(self):
        assert not bool(add_hiss(torch.zeros(1, 100), torch.ones(1, 100), torch.tensor([15.0])).any())


class TestShapeSpectrum:
    def test_flat_curve_is_a_gain(self):
        waveform = noise(2, 3000)
        output = shape_spectrum(waveform, torch.tensor([[0.0] * 5, [6.0] * 5]))
        torch.testing.assert_close(output[0], waveform[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(output[1], 10**0.3 * waveform[1], atol=1e-6, rtol=0)

    def test_control_points_lie_on_the_mel_scale(self):
        mel_of_nyquist = math.log1p(8000 / 700)
        frequencies_hz = [700 * math.expm1(mel_of_nyquist * point / 4) for point in (1, 1.5, 2, 3)]
        waveform = torch.stack([tone(frequency_hz, 16000) for frequency_hz in frequencies_hz])
        gains_db = torch.tensor([3.0, -2.0, 4.0, 0.0, 1.0]).repeat(4, 1)
        change_db = gain_db(shape_spectrum(waveform, gains_db), waveform)
        torch.testing.assert_close(change_db, torch.tensor([-2.0, 1.0, 4.0, 0.0]), atol=0.1, rtol=0)

    def test_does_not_move_the_waveform_in_time(self):
        waveform = torch.zeros(1, 4000)
        waveform[0, 2000] = 1
        output = shape_spectrum(waveform, torch.tensor([[0.0, 5.0, -5.0, 3.0]]))
        assert int(output.argmax()) == 2000
        torch.testing.assert_close(output[0, 1001:2000].flip(0), output[0, 2001:3000], atol=1e-5, rtol=0)


def slow_filter(waveform: torch.Tensor, gain, sample_rate: int) -> np.ndarray:
    """A zero-phase filter in float64: ends mirrored over 512 samples, each frequency multiplied by ``gain``."""
    mirrored = np.pad(waveform.double().numpy(), 512, mode="reflect")
    size = next_fast_len(len(mirrored), real=True)
    spectrum = np.fft.rfft(mirrored, size) * [gain(bin_ * sample_rate / size) for bin_ in range(size // 2 + 1)]
    return np.fft.irfft(spectrum, size)[512 : 512 + len(waveform)]


class TestFiltersInFloat64:
    @pytest.mark.parametrize("sample_rate", [None, 8000])
    def test_shape_spectrum(self, sample_rate):
        gains_db = torch.tensor([[12.0, -18.0, 6.0, 20.0, -15.0], [0.0, 3.0, -20.0, 0.0, 9.0]])
        rate = sample_rate or 16000
        points_mel = np.linspace(0, math.log(1 + rate / 2 / 700), 5)

        def gain(frequency_hz, row):
            return 10 ** (np.interp(math.log(1 + frequency_hz / 700), points_mel, gains_db[row].numpy()) / 20)

        waveform = noise(2, 2000)
        output = shape_spectrum(waveform, gains_db) if sample_rate is None else shape_spectrum(waveform, gains_db, 8000)
        for row in range(2):
            expected = slow_filter(waveform[row], lambda frequency_hz, row=row: gain(frequency_hz, row), rate)
            np.testing.assert_allclose(output[row].numpy(), expected, atol=2e-6, rtol=0)

    @pytest.mark.parametrize("sample_rate", [None, 8000])
    def test_band_limit(self, sample_rate):
        waveform, cutoff_hz = noise(2, 2000), torch.tensor([1500.0, 3900.0])
        output = band_limit(waveform, cutoff_hz) if sample_rate is None else band_limit(waveform, cutoff_hz, 8000)

        def gain(frequency_hz, edge_hz):
            """1 up to 100 Hz below the cut-off, 0 from 100 Hz above it, a squared sine between."""
            below = (edge_hz + 100 - frequency_hz) / 200
            return math.sin(math.pi / 2 * min(1.0, max(0.0, below))) ** 2

        for row, edge_hz in enumerate(cutoff_hz.tolist()):
            expected = slow_filter(waveform[row], lambda hz, edge_hz=edge_hz: gain(hz, edge_hz), sample_rate or 16000)
            np.testing.assert_allclose(output[row].numpy(), expected, atol=2e-6, rtol=0)


def test_nothing_is_made_on_another_device_than_the_waveforms():
    """The device "meta" has shapes and no values, and refuses to meet a tensor of the CPU."""
    rows, spans = noise(2, 1000).to("meta"), torch.zeros(2, 1, 2, dtype=torch.long, device="meta")
    for output in (
        reverberate(rows, rows[:, :300]),
        mix_noise(rows, rows, rows[:, 0]),
        peak_normalise(rows),
        band_limit(rows, rows[:, 0]),
        shape_spectrum(rows, rows[:, :5]),
        spec_augment(rows.view(2, 50, 20), spans, spans),
    ):
        assert output.device.type == "meta"
        assert output.shape[0] == 2


class TestSpecAugment:
    def test_masks_what_the_spans_say(self):
        features = 1 + noise(3, 20, 8).abs()
        times = torch.tensor([[[2, 5], [4, 7]], [[0, 20], [0, 0]], [[3, 3], [9, 9]]])
        bins = torch.tensor([[[7, 8]], [[0, 0]], [[1, 4]]])
        output = spec_augment(features, times, bins)
        expected = features.clone()
        expected[0, 2:7] = 0
        expected[0, :, 7] = 0
        expected[1] = 0
        expected[2, :, 1:4] = 0
        assert torch.equal(output, expected)

    def test_empty_spans_leave_every_bit(self):
        features = noise(2, 20, 8)
        nothing = torch.zeros(2, 1, 2, dtype=torch.long)
        assert torch.equal(spec_augment(features, nothing, nothing), features)
        assert torch.equal(spec_augment(features, nothing[:, :0], nothing[:, :0]), features)


@pytest.mark.parametrize(
    "augment",
    [
        lambda rows: reverberate(rows, noise(8, 500, seed=1)[: len(rows)]),
        lambda rows: mix_noise(rows, noise(8, 1500, seed=2)[: len(rows)], torch.arange(8.0)[: len(rows)]),
        lambda rows: band_limit(rows, torch.arange(2000.0, 3600.0, 200.0)[: len(rows)]),
        lambda rows: shape_spectrum(rows, 50 * noise(8, 6, seed=3)[: len(rows)]),
    ],
    ids=["reverberate", "mix_noise", "band_limit", "shape_spectrum"],
)
def test_a_row_does_not_depend_on_its_batch(augment):
    waveform = noise(8, 1500)
    torch.testing.assert_close(augment(waveform)[:3], augment(waveform[:3]), atol=1e-6, rtol=0)
