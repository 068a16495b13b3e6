"""Digital silence at the ends: whole frames of it go, and nothing else changes by a bit."""

import numpy as np
import pytest

from wespeaker_qm.audio import silence
from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.audio.pieces import features_of
from wespeaker_qm.audio.silence import without_silent_ends

FBANK = Fbank(num_mel_bins=16)


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


def frames_by_definition(waveform: np.ndarray) -> list[int]:
    """Numbers of the frames from the first to the last that has two different values in it."""
    sounding = [
        frame
        for frame in range(FBANK.num_frames(len(waveform)))
        if np.ptp(waveform[160 * frame : 160 * frame + 400]) > 0
    ]
    return list(range(sounding[0], sounding[-1] + 1))


@pytest.mark.parametrize("value", [0.0, -1.0, 8 / 32768])
@pytest.mark.parametrize("before", [0, 399, 400, 401, 559, 560, 561, 4000])
@pytest.mark.parametrize("behind", [0, 399, 400, 560, 561, 720, 5000])
def test_the_frames_from_the_first_to_the_last_with_a_sound_are_left(before: int, behind: int, value: float) -> None:
    waveform = surrounded(before, behind, value)
    left = without_silent_ends(waveform, FBANK.frames)
    frames = frames_by_definition(waveform)
    num_frames = FBANK.num_frames(len(waveform))
    assert (left is waveform) == (len(frames) == num_frames)
    expected = features_of(waveform, FBANK, frames[0], frames[-1] + 1)
    found = features_of(left, FBANK, 0, FBANK.num_frames(len(left)))
    assert np.array_equal(found.numpy(), expected.numpy())


def test_silence_within_stays_and_so_does_what_is_all_silence_or_nothing() -> None:
    within = np.concatenate([voice(), np.zeros(4000, np.float32), voice()])
    assert without_silent_ends(within, FBANK.frames) is within
    for nothing in (np.zeros(8000, np.float32), np.zeros(10, np.float32), np.zeros(0, np.float32), voice(100)):
        assert without_silent_ends(nothing, FBANK.frames) is nothing


def test_as_many_frames_stay_as_a_network_needs() -> None:
    click = np.zeros(8000, np.float32)
    click[4000] = 1
    assert FBANK.num_frames(len(without_silent_ends(click, FBANK.frames))) == 3
    assert len(without_silent_ends(click, FBANK.frames, min_frames=3)) == 720
    assert without_silent_ends(click, FBANK.frames, min_frames=4) is click


def test_any_span_of_what_is_left_is_that_of_the_waveform() -> None:
    waveform = surrounded(1600, 1600)
    left = without_silent_ends(waveform, FBANK.frames)
    whole = left[:]
    assert len(left) == len(whole) < len(waveform)
    start = waveform.tobytes().index(whole[1000:].tobytes()) // 4 - 1000
    for span in (slice(0, 10), slice(100, None), slice(len(left) - 3, len(left) + 100), slice(10**6, None)):
        np.testing.assert_array_equal(left[span], waveform[start : start + len(left)][span])
