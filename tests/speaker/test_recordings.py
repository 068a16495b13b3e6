"""Recordings of any kind become the samples that packing makes of them."""

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.export.contents import FeatureCard
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.speaker.recordings import network_input, read_recording
from wespeaker_qm.utils.errors import RecipeError

FEATURES = FeatureCard(sample_rate=16000, num_mel_bins=16, frame_length_ms=25, frame_shift_ms=10, trim_silence=True)


def voice(rate, seconds=1.0, level=0.2):
    return level * np.random.default_rng(1).standard_normal(int(rate * seconds))


KINDS = {
    "a.wav": (16000, "PCM_16", 0.2),
    "b.wav": (44100, "PCM_24", 0.2),
    "c.wav": (8000, "FLOAT", 1.5),  # beyond full scale
    "d.flac": (48000, "PCM_16", 0.2),
    "e.ogg": (22050, "VORBIS", 0.2),
    "f.mp3": (32000, "MPEG_LAYER_III", 0.2),
}


def test_files_give_the_samples_that_packing_makes_of_them(tmp_path):
    paths = {}
    for name, (rate, subtype, level) in KINDS.items():
        paths[name] = str(tmp_path / name)
        samples = np.stack([voice(rate, level=level), voice(rate, level=level / 2)], axis=1)
        soundfile.write(paths[name], samples, rate, subtype=subtype)
    data = DataDir(wav=paths, speaker=dict.fromkeys(paths, "s"), duration_s=dict.fromkeys(paths, 1.0))
    data.write(tmp_path / "set")
    pack_data_dir(tmp_path / "set", sample_rate=16000, num_workers=1)
    reader = ShardReader(tmp_path / "set" / "shard.list")
    for row, name in enumerate(reader.keys):
        audio = read_recording(paths[name], FEATURES)
        np.testing.assert_array_equal(audio.waveform, reader.read(row), err_msg=name)
        assert audio.name == read_recording(Path(paths[name]), FEATURES).name == paths[name]


def test_the_same_samples_by_path_file_object_stdin_and_array(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, voice(8000), 8000, subtype="PCM_16")
    floats, rate = soundfile.read(path)
    expected = read_recording(path, FEATURES).waveform
    assert expected.dtype == np.float32
    assert len(expected) == 16000
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    piped = read_recording("-", FEATURES)
    assert piped.name == "standard input"
    others = [
        piped.waveform,
        read_recording(str(path), FEATURES).waveform,
        read_recording(io.BytesIO(path.read_bytes()), FEATURES).waveform,
        read_recording(floats, FEATURES, rate).waveform,
        read_recording(floats.astype(np.float32), FEATURES, rate).waveform,
        read_recording((floats * 32768).astype(np.int16), FEATURES, rate).waveform,
    ]
    for other in others:
        np.testing.assert_array_equal(other, expected)


def test_floats_beyond_full_scale_are_scaled_as_files_are(tmp_path):
    samples = voice(16000, level=1.5).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    expected = read_recording(tmp_path / "a.wav", FEATURES).waveform
    np.testing.assert_array_equal(read_recording(samples, FEATURES, 16000).waveform, expected)
    assert np.abs(samples).max() > 2


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        (np.zeros(100), None, "sample_rate: missing beside an array of samples"),
        (np.zeros((100, 2)), 16000, r"array of shape \(100, 2\), expected \(samples,\) of one channel"),
        (np.zeros(0), 16000, r"array of shape \(0,\)"),
        (np.zeros(100, int), 16000, "array of int64, expected floats in"),
        (np.full(100, np.nan), 16000, "infinite or not a number"),
        (np.full(100, 1e300), 16000, "infinite or not a number"),
        (np.zeros(100), 16000, "array: silent: no signal at all"),
        (np.ones(100), 3, "sample rate 3 Hz, expected"),
    ],
)
def test_arrays_that_are_no_recording_are_refused(samples, sample_rate, message):
    with pytest.raises(RecipeError, match=message):
        read_recording(samples, FEATURES, sample_rate)


def test_a_file_knows_its_own_rate(tmp_path):
    with pytest.raises(RecipeError, match="found 8000 beside a file, which knows its own"):
        read_recording(tmp_path / "a.wav", FEATURES, 8000)


def test_the_network_gets_no_digital_silence_where_the_model_says_so(tmp_path):
    samples = np.concatenate([np.zeros(8000), voice(16000), np.zeros(8000)])
    audio = read_recording(samples, FEATURES, 16000)
    kept = network_input(audio, dataclasses.replace(FEATURES, trim_silence=False), 9)
    np.testing.assert_array_equal(kept, audio.waveform)
    trimmed = network_input(audio, FEATURES, 9)
    assert 16000 <= len(trimmed) < 17000
    assert trimmed.dtype == np.float32


def test_what_is_too_short_for_the_network_is_named():
    audio = read_recording(voice(16000, 0.1), FEATURES, 16000)
    with pytest.raises(RecipeError, match=r"array: 0\.100 s of audio, expected at least 0\.105 s"):
        network_input(audio, FEATURES, 9)
