"""Clips to utterances: silence out, lengths within limits, nothing repeated."""

import itertools

import numpy as np
import pytest

from wespeaker_qm.corpora.joining import Piece, choose_evenly, join_pieces, plan_utterances, share_out, sound_pieces

RATE = 8000


def noise(duration_s: float, level: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (level * rng.standard_normal(round(duration_s * RATE))).astype(np.float32)


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * RATE), dtype=np.float32)


def test_silence_at_the_ends_is_cut_with_a_margin() -> None:
    (piece,) = sound_pieces(7, np.concatenate([silence(1.0), noise(0.5), silence(2.0)]), RATE)
    assert piece == pytest.approx(Piece(7, 0.94, 1.56), abs=0.021)


def test_long_pauses_are_cut_and_short_ones_kept() -> None:
    waveform = np.concatenate([noise(0.5), silence(0.2), noise(0.5), silence(1.0), noise(0.5)])
    first, second = sound_pieces(0, waveform, RATE)
    assert (first.start_s, first.end_s) == pytest.approx((0.0, 1.26), abs=0.021)
    assert (second.start_s, second.end_s) == pytest.approx((2.14, 2.7), abs=0.021)


def test_an_offset_that_stops_with_the_sound_is_no_sound() -> None:
    waveform = np.concatenate([0.3 + noise(0.5, 0.01), silence(1.0), 0.3 + noise(0.5, 0.01)])
    assert len(sound_pieces(0, waveform, RATE)) == 2


@pytest.mark.parametrize("waveform", [silence(1.0), noise(1.0, 1e-4), noise(0.05), np.zeros(1, dtype=np.float32)])
def test_silence_and_clicks_hold_no_pieces(waveform: np.ndarray) -> None:
    assert sound_pieces(0, waveform, RATE) == []


def test_lengths_stay_within_the_limits_and_nothing_is_used_twice() -> None:
    rng = np.random.default_rng(0)
    pieces = [Piece(clip, 0.1, 0.1 + float(length)) for clip, length in enumerate(rng.gamma(2.0, 1.2, size=200) + 0.1)]
    utterances = list(plan_utterances(pieces, 3.5, 6.0))
    lengths = [sum(piece.end_s - piece.start_s for piece in utterance) for utterance in utterances]
    assert min(lengths) >= 3.5
    assert max(lengths) <= 6.0 + 1e-9
    flat = [piece for utterance in utterances for piece in utterance]
    assert flat == sorted(flat)
    for before, after in itertools.pairwise(flat):
        assert after.clip > before.clip or after.start_s >= before.end_s
    used = sum(lengths) / sum(piece.end_s - piece.start_s for piece in pieces)
    assert used > 0.97


def test_a_long_clip_is_cut_and_what_is_left_is_appended_or_dropped() -> None:
    assert list(plan_utterances([Piece(0, 0.0, 13.0)], 3.5, 6.0)) == [
        [Piece(0, 0.0, 6.0)],
        [Piece(0, 6.0, 12.0)],
    ]
    assert list(plan_utterances([Piece(0, 0.0, 4.0), Piece(1, 1.0, 2.0)], 3.5, 6.0)) == [
        [Piece(0, 0.0, 4.0), Piece(1, 1.0, 2.0)]
    ]
    assert list(plan_utterances([Piece(0, 0.0, 3.0)], 3.5, 6.0)) == []
    # 0.1 s of the second clip is not worth a piece of its own.
    assert list(plan_utterances([Piece(0, 0.0, 6.1), Piece(1, 0.0, 4.0)], 3.5, 6.0))[1] == [Piece(1, 0.0, 4.0)]


def test_choice_is_even() -> None:
    assert choose_evenly(10, 5) == [1, 3, 5, 7, 9]
    assert choose_evenly(3, 5) == [0, 1, 2]
    assert choose_evenly(4, 0) == []


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [([100], 60, [60]), ([100, 20], 60, [40, 20]), ([5, 5], 60, [5, 5]), ([9, 9], 3, [2, 1])],
)
def test_sessions_share_equally(counts: list[int], total: int, shares: list[int]) -> None:
    assert share_out(counts, total) == shares


def test_joining_resamples_and_fades() -> None:
    clips = [(noise(1.0), RATE), (np.full(16000, 0.5, dtype=np.float32), 16000)]
    waveform = join_pieces([Piece(0, 0.0, 1.0), Piece(1, 0.25, 0.75)], clips.__getitem__, 16000)
    assert waveform.dtype == np.float32
    assert len(waveform) == 16000 + 8000
    assert waveform[0] == waveform[15999] == waveform[16000] == waveform[-1] == 0
    assert np.all(waveform[16100:-100] == 0.5)
    assert clips[1][0][0] == 0.5, "the clip itself is not faded"
