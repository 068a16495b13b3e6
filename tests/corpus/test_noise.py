"""Babble and rooms: reproducible, well formed, and only of the voices that were given."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import read_audio, write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.noise import make_babble, merge, simulate_rooms
from wespeaker_qm.utils.errors import RecipeError

RATE = 16000
FREQUENCIES_HZ = (500, 1000, 1500, 2000)


@pytest.fixture
def train(tmp_path):
    """Four speakers; the voice of each is a tone of its own frequency."""
    data = DataDir(wav={}, speaker={}, duration_s={})
    for frequency_hz in FREQUENCIES_HZ:
        for number in range(2):
            key = f"s{frequency_hz}-{number}"
            path = tmp_path / "train" / f"{key}.wav"
            write_wav(path, 0.1 * np.sin(2 * np.pi * frequency_hz * np.arange(8000) / RATE), RATE)
            data.wav[key], data.speaker[key], data.duration_s[key] = str(path), f"s{frequency_hz}", 0.5
    return data


def test_babble_mixes_three_or_more_training_voices(train, tmp_path):
    babble = make_babble(train, tmp_path / "babble", num_files=5, duration_s=2.0)
    babble.validate()
    assert list(babble.wav) == [f"babble-{index:04d}" for index in range(5)]
    assert set(babble.speaker.values()) == {"speech"}
    for path in babble.wav.values():
        wave, rate = read_audio(path)
        assert rate == RATE and len(wave) == 2 * RATE and np.abs(wave).max() == pytest.approx(0.7, abs=1e-4)
        power = np.abs(np.fft.rfft(wave)) ** 2
        heard = [frequency for frequency in FREQUENCIES_HZ if power[2 * frequency] > 0.1 * power.max()]
        assert len(heard) >= 3, "each talker's tone, all equally loud"


def test_babble_is_reproducible_and_more_files_append(train, tmp_path):
    first = make_babble(train, tmp_path / "a", num_files=5, duration_s=1.0, seed=3)
    again = make_babble(train, tmp_path / "b", num_files=6, duration_s=1.0, seed=3)
    other = make_babble(train, tmp_path / "c", num_files=5, duration_s=1.0, seed=4)

    def content(babble, count=5):
        return [Path(path).read_bytes() for path in list(babble.wav.values())[:count]]

    assert content(first) == content(again) != content(other)


def test_rooms(tmp_path):
    rooms = simulate_rooms(tmp_path, num_rooms=4)
    rooms.validate()
    assert len(set(rooms.speaker.values())) == 4
    for key, path in rooms.wav.items():
        rir, rate = read_audio(path)
        assert rate == RATE and len(rir) / rate == pytest.approx(rooms.duration_s[key])


def test_merge(tmp_path):
    a = DataDir(wav={"a": "a.wav"}, speaker={"a": "noise"}, duration_s={"a": 1.0})
    b = DataDir(wav={"b": "b.wav"}, speaker={"b": "music"}, duration_s={"b": 2.0})
    assert merge([a, b]).speaker == {"a": "noise", "b": "music"}
    with pytest.raises(RecipeError, match="'a' stands in two sources"):
        merge([a, a])
