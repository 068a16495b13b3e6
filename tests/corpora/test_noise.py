"""Babble, noise pieces and rooms: reproducible, well formed, and only of the voices that were given."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.audio.io import read_audio, read_audio_at, write_wav
from wespeaker_qm.corpora.noise import build_noise_set, build_rirs
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.utils.errors import RecipeError
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


def sounds(tmp_path, **durations_s):
    """Files of white noise."""
    rng = np.random.default_rng(1)
    paths = []
    for name, duration_s in durations_s.items():
        paths.append(tmp_path / "clips" / f"{name}.wav")
        write_wav(paths[-1], 0.1 * rng.standard_normal(round(duration_s * RATE)), RATE)
    return paths


@pytest.mark.parametrize(("kind", "durations_s"), [("noise", {"a": 1.0, "b": 1.5}), ("music", {"a": 9.0})])
def test_what_is_short_in_all_is_one_piece_and_said_to_be(train, tmp_path, caplog, kind, durations_s):
    """Training repeats a noise until it is as long as the speech."""
    clips = {kind: sounds(tmp_path, **durations_s)}
    noise = build_noise_set(DataFolder(tmp_path), clips, train, num_babble=0)
    assert noise.speaker == {f"{kind}-0000": kind}
    assert noise.duration_s[f"{kind}-0000"] == pytest.approx(sum(durations_s.values()), abs=0.05)
    least = {"noise": "3", "music": "10"}[kind]
    assert f"{kind}: {sum(durations_s.values()):.1f} s of sound in all, expected at least {least} s" in caplog.text


def test_what_is_not_used_is_named(train, tmp_path, caplog):
    """Twenty seconds fill a piece, so that what follows would need to fill one of its own."""
    clips = {"noise": sounds(tmp_path, silent=1.0, long=20.0, rest=1.0)}
    write_wav(clips["noise"][0], np.zeros(RATE), RATE)
    noise = build_noise_set(DataFolder(tmp_path), clips, train, num_babble=0)
    assert list(noise.duration_s.values()) == [20.0]
    assert "noise: nothing of 2 of 3 files is used" in caplog.text
    assert f"{clips['noise'][0]}: no sound" in caplog.text
    assert f"{clips['noise'][2]}: what is left at the end is too short" in caplog.text
    assert "short piece" not in caplog.text


def test_every_file_is_decoded_once(train, tmp_path, monkeypatch):
    clips = {"music": sounds(tmp_path, a=50.0, b=3.0, c=31.0), "noise": sounds(tmp_path, d=0.5, e=65.0, f=0.5)}
    once = build_noise_set(DataFolder(tmp_path / "once"), clips, train, num_babble=0)
    assert len(once) >= 8
    decoded = []

    def read(path):
        decoded.append(path)
        return read_audio(path)

    monkeypatch.setattr("wespeaker_qm.corpora.noise.read_audio", read)
    build_noise_set(DataFolder(tmp_path / "counted"), clips, train, num_babble=0)
    assert sorted(decoded) == sorted(path for paths in clips.values() for path in paths)


@pytest.mark.parametrize("rate", [191_999, 999_983])
def test_noises_that_cannot_be_read_are_listed_and_counted(train, tmp_path, rate):
    clips = {"noise": sounds(tmp_path, a=4.0, b=4.0), "music": sounds(tmp_path, c=12.0, d=12.0)}
    clips["noise"][0].write_bytes(b"no audio")
    write_wav(clips["music"][1], 0.1 * np.ones(RATE), rate)
    data = DataFolder(tmp_path)
    with pytest.raises(
        RecipeError, match=r"bad_noise\.tsv: 2 of 4 recordings cannot be used.*\n.*d\.wav\): sample rate"
    ):
        build_noise_set(data, clips, train, num_babble=0, max_bad_fraction=0.4)
    noise = build_noise_set(data, clips, train, num_babble=0, max_bad_fraction=0.5)
    assert sorted(noise.speaker.values()) == ["music", "noise"]
    _, *rows = data.bad_noise.read_text().splitlines()
    assert [row.split("\t")[:2] for row in rows] == [
        ["music", str(clips["music"][1])],
        ["noise", str(clips["noise"][0])],
    ]


def test_babble_keeps_no_more_of_a_recording_than_it_needs(train, tmp_path, monkeypatch):
    """Eight seconds of a recording of hours."""
    kept = []

    def read(path, sample_rate, num_samples):
        kept.append(read_audio_at(path, sample_rate, num_samples))
        return kept[-1]

    monkeypatch.setattr("wespeaker_qm.corpora.noise.read_audio_at", read)
    for key in train.wav:
        write_wav(train.wav[key], 0.1 * np.sin(np.arange(20 * RATE)), RATE)
    build_noise_set(DataFolder(tmp_path), {}, train, num_babble=2)
    assert {len(waveform) for waveform in kept} == {8 * RATE}
