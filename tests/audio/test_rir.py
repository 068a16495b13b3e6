"""Simulated rooms: reproducible, storable, and of plausible acoustics."""

import hashlib
import math
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pyroomacoustics
import pytest

from wespeaker_qm.audio import rir
from wespeaker_qm.audio.rir import (
    LEAD_SAMPLES,
    SIZES,
    Room,
    _sabine_rt60,
    draw_room,
    room_impulse_response,
    simulate_rirs,
)

HASH_PROGRAM = """
import hashlib
from wespeaker_qm.audio.rir import simulate_rirs
print(hashlib.sha256(b"".join(item.rir.tobytes() for item in simulate_rirs(3, 7))).hexdigest())
"""


@pytest.fixture(scope="module")
def responses():
    return list(simulate_rirs(60, seed=1))


def test_keys_and_rooms(responses):
    assert len({item.key for item in responses}) == 60
    assert [item.room_id for item in responses[:4]] == ["small-00000", "medium-00001", "large-00002", "small-00003"]
    assert all(item.key.startswith(item.room_id) for item in responses)


def test_sixteen_bits_hold_them(responses):
    for item in responses:
        assert item.rir.dtype == np.float32
        assert np.isfinite(item.rir).all()
        assert 0.99 < np.abs(item.rir).max() < 1
        np.testing.assert_array_equal(item.rir * 32768, np.round(item.rir * 32768))


def test_direct_sound_comes_at_a_fixed_time(responses):
    for item in responses:
        before = np.square(item.rir[: LEAD_SAMPLES - 5]).sum()
        first = np.square(item.rir[LEAD_SAMPLES - 5 : LEAD_SAMPLES + 6]).sum()
        assert before < 0.1 * first


def test_reverberation_times_spread(responses):
    def decay_time_s(rir):
        """RT60 by Schroeder's integral, from -5 to -25 dB."""
        remaining = np.cumsum(np.square(rir.astype(np.float64))[::-1])[::-1] / np.square(rir.astype(np.float64)).sum()
        return 3 * (np.argmax(remaining < 10**-2.5) - np.argmax(remaining < 10**-0.5)) / 16000

    small, medium, large = (np.array([decay_time_s(item.rir) for item in responses[i::3]]) for i in range(3))
    assert np.median(small) < np.median(medium) < np.median(large)
    assert 0.15 < np.median(small) < 0.4
    assert 0.4 < np.median(large) < 1.2


def test_another_process_makes_the_same_bits():
    here = hashlib.sha256(b"".join(item.rir.tobytes() for item in simulate_rirs(3, 7))).hexdigest()
    there = subprocess.run([sys.executable, "-c", HASH_PROGRAM], capture_output=True, text=True, check=True).stdout
    assert there.strip() == here


def test_more_rooms_append(responses):
    for item, other in zip(simulate_rirs(5, seed=1), responses, strict=False):
        assert item.key == other.key
        np.testing.assert_array_equal(item.rir, other.rir)
    assert not np.array_equal(next(simulate_rirs(1, seed=2)).rir, responses[0].rir)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_rooms_are_plausible(size):
    rng = np.random.default_rng(3)
    for _ in range(50):
        room = draw_room(size, rng)
        length, width, height = room.extent_m
        surface = 2 * (length * width + width * height + height * length)
        absorption = 0.161 * length * width * height / (surface * room.rt60_s)
        assert 0.19 < absorption < 0.81
        assert 0.1 <= room.rt60_s <= 0.9
        for position in (room.source_m, room.microphone_m):
            assert (position >= 0.5).all() and (position <= room.extent_m - 0.5).all()
        assert 0.5 <= math.dist(room.source_m, room.microphone_m) <= 5


def test_echo_of_the_floor_comes_when_geometry_says():
    # Walls 20 m away, so that the first echoes are those of floor and ceiling, 2 m below and 30 m above.
    extent = np.array([40.0, 40.0, 32.0])
    room = Room(extent, np.array([18.0, 20.0, 2.0]), np.array([21.0, 20.0, 2.0]), rt60_s=3.0)
    response = room_impulse_response(room, 16000)
    echo = LEAD_SAMPLES + (5.0 - 3.0) / 343 * 16000
    assert abs(int(np.argmax(np.abs(response))) - LEAD_SAMPLES) <= 1
    assert abs(LEAD_SAMPLES + 20 + int(np.argmax(np.abs(response[LEAD_SAMPLES + 20 : 500]))) - echo) <= 2


@pytest.mark.parametrize("absorption", [0.25, 0.5, 0.75])
def test_the_first_echo_has_lost_what_the_wall_absorbs(absorption):
    """Sabine's RT60 of an absorption goes in; the floor's echo must come back with 1 - absorption of its energy.

    The room is so large that only direct sound (3 m) and floor echo (5 m) arrive within 200 samples.
    """
    extent = np.array([40.0, 40.0, 32.0])
    surface = 2 * (40 * 40 + 40 * 32 + 32 * 40)
    rt60_s = 24 * math.log(10) * 40 * 40 * 32 / (343 * absorption * surface)
    room = Room(extent, np.array([18.0, 20.0, 2.0]), np.array([21.0, 20.0, 2.0]), rt60_s=rt60_s)
    response = room_impulse_response(room, 16000).astype(np.float64)
    echo = LEAD_SAMPLES + round((5.0 - 3.0) / 343 * 16000)
    direct, reflected = (np.square(response[at - 20 : at + 21]).sum() for at in (LEAD_SAMPLES, echo))
    # Spherical waves: energy falls with the square of the distance.
    assert reflected / direct * (5 / 3) ** 2 == pytest.approx(1 - absorption, rel=0.05)


def test_sabine_gives_the_textbook_reverberation_time(size=(10.0, 8.0, 3.0)):
    """0.161 V / A, for metres and seconds, where A is surface times absorption."""
    volume, surface = 240.0, 2 * (80 + 24 + 30)
    assert _sabine_rt60(np.array(size), 0.3) == pytest.approx(0.161 * volume / (0.3 * surface), rel=1e-3)


@pytest.mark.parametrize(
    ("height_m", "rt60_s", "order"),
    [(3.0, 0.1, 12), (4.0, 0.3, 26), (2.5, 0.9, 30), (8.0, 0.5, 22)],
    ids=["343 * 0.1 / 3 = 11.4", "25.7", "limited to 30", "21.4"],
)
def test_echoes_are_followed_as_often_as_sound_can_cross_the_room_within_rt60(monkeypatch, height_m, rt60_s, order):
    """And on one thread, since several sum them in another order; whatever happens, the setting is put back."""
    before = pyroomacoustics.constants.get("num_threads")
    asked = {}

    def shoebox(extent_m, **arguments):
        asked.update(arguments, threads=pyroomacoustics.constants.get("num_threads"))
        raise RuntimeError("enough")

    monkeypatch.setattr(pyroomacoustics, "ShoeBox", shoebox)
    pyroomacoustics.constants.set("num_threads", 7)
    room = Room(np.array([9.0, 10.0, height_m]), np.ones(3), np.full(3, 2.0), rt60_s)
    with pytest.raises(RuntimeError, match="enough"):
        room_impulse_response(room, 8000)
    assert (asked["max_order"], asked["fs"], asked["threads"]) == (order, 8000, 1)
    assert pyroomacoustics.constants.get("num_threads") == 7
    pyroomacoustics.constants.set("num_threads", before)


def test_sixteen_kilohertz_unless_said_otherwise():
    default, sixteen, eight = (next(simulate_rirs(1, 5, *rate)) for rate in ((), (16000,), (8000,)))
    np.testing.assert_array_equal(default.rir, sixteen.rir)
    assert len(eight.rir) < 0.6 * len(sixteen.rir)


@pytest.mark.parametrize(("left_db", "num_kept"), [(-60.0, 20), (-30.0, 10)])
def test_a_response_is_cut_where_too_little_is_left_and_scaled_to_its_peak(monkeypatch, left_db, num_kept):
    """Energies 1, 1/2, 1/4, ...: after k samples 2^-k of the energy is left, -60.2 dB after 20 and -30.1 after 10."""
    decay = -0.37 * np.sqrt(0.5) ** np.arange(400)
    shoebox = Mock(rir=[[np.concatenate([np.full(16, 1e-9), decay])]])
    monkeypatch.setattr(pyroomacoustics, "ShoeBox", lambda *arguments, **named: shoebox)
    monkeypatch.setattr(rir, "TAIL_DB", left_db)
    # Sound takes 16.3 samples for 0.35 m.
    room = Room(np.full(3, 5.0), np.array([1.0, 1.0, 1.0]), np.array([1.35, 1.0, 1.0]), 0.3)
    found = room_impulse_response(room, 16000)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.rint(decay[:num_kept] / 0.37 * 32767).astype(np.float32) / 32768)
    shoebox.add_source.assert_called_once_with(room.source_m)
    shoebox.add_microphone.assert_called_once_with(room.microphone_m)
