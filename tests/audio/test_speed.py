"""Speed perturbation against sox (oracles_data/speed.npz), torchaudio, and constructed signals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.audio.speed import change_speed, speed_input_length

ORACLE = np.load(Path(__file__).parents[1] / "oracles_data" / "speed.npz")
EDGE = 50


def snr_db(signal: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(signal.square().sum() / (signal - other).square().sum()))


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_sox(speed):
    waveform = torch.from_numpy(ORACLE["wav"].astype(np.float32) / 32768)
    expected = torch.from_numpy(ORACLE[f"out_speed_{speed}"])
    output = change_speed(waveform[None], speed)[0]
    assert output.shape == expected.shape
    assert snr_db(expected, output) > 68


@pytest.mark.parametrize(("speed", "old", "new"), [(0.9, 9, 10), (1.1, 11, 10)])
@pytest.mark.parametrize("num_samples", [1, 10, 4321])
def test_torchaudio(speed, old, new, num_samples, torchaudio):
    waveform = torch.randn(3, num_samples, generator=torch.Generator().manual_seed(1))
    output = change_speed(waveform, speed)
    expected = torchaudio.functional.resample(waveform, old, new, lowpass_filter_width=32, rolloff=0.95)
    assert output.shape == (3, num_samples * new // old)
    torch.testing.assert_close(output, expected[:, : output.shape[1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_raises_a_tone_by_the_speed(speed):
    time = torch.arange(8000, dtype=torch.float64) / 16000
    waveform = torch.sin(2 * math.pi * 1000 * time).float()[None]
    output = change_speed(waveform, speed)[0]
    time = torch.arange(len(output), dtype=torch.float64) / 16000
    expected = torch.sin(2 * math.pi * 1000 * speed * time).float()
    torch.testing.assert_close(output[EDGE:-EDGE], expected[EDGE:-EDGE], atol=1e-3, rtol=0)


def test_speed_up_does_not_alias():
    time = torch.arange(8000, dtype=torch.float64) / 16000
    output = change_speed(torch.sin(2 * math.pi * 7900 * time).float()[None], 1.1)
    assert float(output[:, EDGE:-EDGE].abs().max()) < 1e-3


@pytest.mark.parametrize(("speed", "step", "phases"), [(0.9, 9, 10), (1.1, 11, 10)])
def test_a_chunk_is_a_slice_of_the_whole(speed, step, phases):
    waveform = torch.randn(1, 6000, generator=torch.Generator().manual_seed(2))
    whole = change_speed(waveform, speed)
    chunk = change_speed(waveform[:, 100 * step : 100 * step + 3000], speed)
    expected = whole[:, 100 * phases : 100 * phases + chunk.shape[1]]
    torch.testing.assert_close(chunk[:, EDGE:-EDGE], expected[:, EDGE:-EDGE], atol=1e-5, rtol=0)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("num_samples", [1, 9, 10, 11, 399, 16240, 32240])
def test_input_length_is_the_smallest_that_suffices(speed, num_samples):
    length = speed_input_length(num_samples, speed)
    assert change_speed(torch.zeros(1, length), speed).shape[1] >= num_samples
    assert change_speed(torch.zeros(1, length - 1), speed).shape[1] < num_samples


def test_stated_length():
    assert speed_input_length(32240, 1.1) == 35464


def test_speed_one_is_the_identity():
    waveform = torch.randn(2, 100, generator=torch.Generator().manual_seed(3))
    assert change_speed(waveform, 1.0) is waveform


def test_autocast_changes_nothing():
    waveform = torch.randn(2, 1000, generator=torch.Generator().manual_seed(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = change_speed(waveform, 0.9)
    assert torch.equal(output, change_speed(waveform, 0.9))


def test_the_filter_is_applied_in_float32_whatever_the_switches_say(products):
    with products:
        change_speed(torch.randn(2, 1000, generator=torch.Generator().manual_seed(4)), 0.9)
    assert products.are_exact


@pytest.mark.parametrize("speed", [0.0, -0.9, math.pi, 0.9001, 1000.0, 1.01, 100 / 101, 0.9 + 1e-8])
def test_speeds_that_are_no_small_ratio(speed):
    with pytest.raises(ValueError, match="expected a positive ratio"):
        change_speed(torch.zeros(1, 100), speed)


def test_ratios_of_integers_up_to_100():
    waveform = torch.zeros(1, 10_000)
    assert change_speed(waveform, 100 / 99).shape == (1, 9_900)
    assert change_speed(waveform, 99 / 100).shape == (1, 10_101)
    assert change_speed(waveform, 100).shape == (1, 100)


def test_the_filter_is_copied_to_a_device_once(monkeypatch):
    waveform = torch.randn(2, 4000)
    first = change_speed(waveform, 1.1)

    def copied(*args):
        raise AssertionError("a copy")

    monkeypatch.setattr(torch.Tensor, "to", copied)
    assert torch.equal(change_speed(waveform, 1.1), first)
