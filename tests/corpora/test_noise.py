"""Babble, noise pieces and rooms: reproducible, well formed, and only of the voices that were given."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import read_audio, write_wav
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.utils.layout import DataFolder

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
    babble = build_noise_set(DataFolder(tmp_path), {}, train, num_babble=5)
    assert DataDir.read(tmp_path / "noise") == babble
    assert set(babble.speaker.values()) == {"speech"} and len(babble) == 5
    for key, path in babble.wav.items():
        wave, rate = read_audio(path)
        assert rate == RATE and len(wave) == RATE * babble.duration_s[key]
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz_per_bin = RATE / len(wave)
        heard = [tone for tone in FREQUENCIES_HZ if power[round(tone / hertz_per_bin)] > 0.1 * power.max()]
        assert len(heard) >= 3, "each talker's tone, all equally loud"


def test_babble_is_seeded_and_more_of_it_appends(train, tmp_path):
    def contents(name, count, seed):
        babble = build_noise_set(DataFolder(tmp_path / name), {}, train, num_babble=count, seed=seed)
        return [Path(babble.wav[key]).read_bytes() for key in sorted(babble.wav)]

    first = contents("a", 5, 3)
    assert contents("b", 6, 3)[:5] == first != contents("c", 5, 4)


def test_clips_become_pieces_of_their_category(train, tmp_path):
    rng = np.random.default_rng(1)
    for name in ("noise", "music"):
        write_wav(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(26 * RATE), RATE)
    clips = {name: [tmp_path / f"{name}.wav"] for name in ("noise", "music")}
    noise = build_noise_set(DataFolder(tmp_path), clips, train, num_babble=1)
    lengths_s = {kind: [noise.duration_s[key] for key in noise.wav if noise.speaker[key] == kind] for kind in clips}
    assert all(3 <= length <= 20 for length in lengths_s["noise"]) and lengths_s["noise"]
    assert all(10 <= length <= 15 for length in lengths_s["music"]) and lengths_s["music"]


def test_rooms(tmp_path):
    rooms = build_rirs(DataFolder(tmp_path), 4)
    assert DataDir.read(tmp_path / "rirs").wav == rooms.wav
    assert len(set(rooms.speaker.values())) == 4
    for key, path in rooms.wav.items():
        rir, rate = read_audio(path)
        assert rate == RATE and len(rir) / rate == pytest.approx(rooms.duration_s[key])
