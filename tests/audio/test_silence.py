"""Digital silence, wherever it is: whole frames of it go, and no other changes by a bit."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from wespeaker_qm.audio import silence
from wespeaker_qm.audio.frames import Frames
from wespeaker_qm.audio.silence import without_silence

FRAMES = Frames.of(16000, 25, 10)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of equal samples reaches over several of them."""
    monkeypatch.setattr(silence, "_BLOCK_SAMPLES", 500)


def voice(num_samples: int = 8000) -> np.ndarray:
    """No sample of which is 0 or equals its neighbour."""
    return (0.1 + 0.2 * np.random.default_rng(0).random(num_samples)).astype(np.float32)


def surrounded(before: int, behind: int, value: float = 0.0) -> np.ndarray:
    padding = np.full(before + behind, value, np.float32)
    return np.concatenate([padding[:before], voice(), padding[before:]])


def framed(waveform: np.ndarray, frames: Frames = FRAMES) -> np.ndarray:
    """All whole frames (T, N)."""
    return sliding_window_view(waveform, frames.length)[:: frames.shift]


def check(waveform: np.ndarray, frames: Frames = FRAMES) -> None:
    """By definition: the frames that have two different values in them, one behind the other."""
    every = framed(waveform, frames)
    sounding = np.ptp(every, axis=1) > 0
    left = without_silence(waveform, frames)
    assert (left is waveform) == (sounding.all() or not sounding.any())
    np.testing.assert_array_equal(framed(left[:], frames), every if left is waveform else every[sounding])


@pytest.mark.parametrize("value", [0.0, -1.0, 8 / 32768])
@pytest.mark.parametrize("before", [0, 399, 400, 401, 559, 560, 561, 4000])
@pytest.mark.parametrize("behind", [0, 399, 400, 560, 561, 720, 5000])
def test_at_the_ends(before: int, behind: int, value: float) -> None:
    check(surrounded(before, behind, value))


@pytest.mark.parametrize("value", [0.0, -1.0, 8 / 32768])
@pytest.mark.parametrize("length", [399, 400, 401, 558, 559, 560, 561, 719, 720, 721, 4000])
@pytest.mark.parametrize("offset", [0, 1, 80, 159])
def test_inside(offset: int, length: int, value: float) -> None:
    pause = np.full(length, value, np.float32)
    check(np.concatenate([voice(3200 + offset), pause, voice()]))


@pytest.mark.parametrize("frames", [FRAMES, Frames(400, 400), Frames(160, 400), Frames(7, 3)])
@pytest.mark.parametrize("seed", range(20))
def test_runs_of_any_lengths_anywhere(seed: int, frames: Frames) -> None:
    """Neighbouring ones of different values, too, and some that end with a block."""
    rng = np.random.default_rng(seed)
    parts = [
        np.full(rng.integers(1, 1500), rng.choice([0.0, 0.5])) if rng.random() < 0.6 else voice(rng.integers(1, 1500))
        for _ in range(12)
    ]
    check(np.concatenate([*parts, voice(500)]).astype(np.float32), frames)


def test_what_is_all_silence_or_nothing_stays() -> None:
    for nothing in (np.zeros(8000, np.float32), np.zeros(10, np.float32), np.zeros(0, np.float32), voice(100)):
        assert without_silence(nothing, FRAMES) is nothing


def test_as_many_frames_stay_as_a_network_needs() -> None:
    click = np.zeros(8000, np.float32)
    click[4000] = 1
    assert FRAMES.num_frames(len(without_silence(click, FRAMES))) == 3
    assert FRAMES.num_frames(len(without_silence(click, FRAMES, min_frames=3))) == 3
    assert without_silence(click, FRAMES, min_frames=4) is click


def test_any_span_of_what_is_left_is_that_of_the_whole() -> None:
    pause = np.zeros(1600, np.float32)
    left = without_silence(np.concatenate([pause, voice(), pause, voice(3000), pause]), FRAMES)
    whole = left[:]
    assert len(left) == len(whole)
    assert whole.dtype == np.float32
    around = [0, 10, 7999, 8000, 8100, 8239, 8240, 8241, 8500, len(left) - 3, len(left), len(left) + 100]
    for first in around:
        np.testing.assert_array_equal(left[first:], whole[first:])
        for end in around:
            np.testing.assert_array_equal(left[first:end], whole[first:end])
