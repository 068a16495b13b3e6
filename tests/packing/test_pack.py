"""Packing and random access: what goes in comes out, whoever reads it and however many workers wrote it."""

import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import read_audio_at, write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing import index_files
from wespeaker_qm.packing import reader as packing_reader
from wespeaker_qm.packing.format import to_pcm16
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import LEDGER

RATE = 16000


def tone(seed: int, num_samples: int) -> np.ndarray:
    """Noisy tone (S,), float32, exact in 16 bits."""
    rng = np.random.default_rng(seed)
    wave = 0.3 * np.sin(np.arange(num_samples) * rng.uniform(0.05, 0.3)) + 0.05 * rng.standard_normal(num_samples)
    return (np.round(np.clip(wave, -1, 1) * 32767) / 32768).astype(np.float32)


def make_data_dir(folder, num_utterances=7, num_speakers=3, growth=517):
    """A Kaldi directory of 16 kHz wav files, each longer than the last; returns its path and the waveforms."""
    data = DataDir(wav={}, speaker={}, duration_s={})
    waves = {}
    for number in range(num_utterances):
        key = f"spk{number % num_speakers}-utt.{number:03d}"
        waves[key] = tone(number, 3000 + growth * number)
        path = folder / "audio" / f"{key}.wav"
        write_wav(path, waves[key], RATE)
        data.wav[key], data.speaker[key] = str(path), f"spk{number % num_speakers}"
        data.duration_s[key] = len(waves[key]) / RATE
    data.write(folder / "set")
    return folder / "set", waves


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("shards_*"))}


@pytest.fixture
def packed(tmp_path):
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, utterances_per_shard=3)
    return data_dir, waves


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_round_trip_is_bit_exact_and_a_chunk_equals_the_slice(tmp_path, codec):
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec, utterances_per_shard=3)
    reader = ShardReader(data_dir / "shard.list")
    assert len(reader) == 7 and sorted(reader.keys) == sorted(waves) and reader.sample_rate == RATE
    rng = np.random.default_rng(5)
    for i, key in enumerate(reader.keys):
        whole = reader.read(i)
        assert whole.dtype == np.float32 and reader.num_samples[i] == len(whole) and reader.index_of(key) == i
        assert reader.speakers[i] == key[:4]
        np.testing.assert_array_equal(whole, waves[key])
        start = int(rng.integers(0, len(whole)))
        count = int(rng.integers(0, len(whole) - start + 1))
        np.testing.assert_array_equal(reader.read(i, start, count), whole[start : start + count])
        np.testing.assert_array_equal(reader.read(i, start), whole[start:])
        assert reader.read(i, len(whole)).shape == reader.read(i, start, 0).shape == (0,)


def test_a_span_beyond_the_recording_is_refused(packed):
    reader = ShardReader(packed[0] / "shard.list")
    for start, count in [(-1, 5), (0, int(reader.num_samples[0]) + 1), (int(reader.num_samples[0]) + 1, None)]:
        with pytest.raises(ValueError, match="asked for"):
            reader.read(0, start, count)


def test_wespeaker_finds_speaker_and_audio(packed, monkeypatch):
    """Walk the tar as a stream and group members by what stands before the last dot, as WeSpeaker's loader does."""
    data_dir, waves = packed
    found = {}
    for tar_path in (data_dir / "shard.list").read_text().split():
        with tarfile.open(tar_path, mode="r|*") as stream:
            for member in stream:
                prefix, suffix = member.name.rsplit(".", 1)
                content = stream.extractfile(member)
                if suffix == "spk":
                    found[prefix] = [content.read().decode().strip()]
                else:
                    assert suffix == "wav"
                    path = data_dir / "member.wav"
                    path.write_bytes(content.read())
                    found[prefix].append(soundfile.read(path, dtype="float32"))
    assert set(found) == set(waves)
    for key, (speaker, (wave, rate)) in found.items():
        assert speaker == key[:4] and rate == RATE
        np.testing.assert_array_equal(wave, waves[key])


def test_workers_change_nothing(tmp_path):
    data_dir, _ = make_data_dir(tmp_path)
    pack_data_dir(data_dir, utterances_per_shard=3, num_workers=1)
    alone = all_bytes(data_dir)
    for marker in (data_dir / "shards" / ".done").iterdir():
        marker.unlink()
    pack_data_dir(data_dir, utterances_per_shard=3, num_workers=2)
    assert all_bytes(data_dir) == alone


def test_the_seed_shuffles_and_no_shuffle_sorts(tmp_path):
    data_dir, waves = make_data_dir(tmp_path)
    orders = []
    for options in ({"seed": 1}, {"seed": 2}, {"seed": 1}, {"shuffle": False}):
        pack_data_dir(data_dir, **options)
        orders.append(ShardReader(data_dir / "shard.list").keys)
    assert orders[0] == orders[2] != orders[1]
    assert orders[3] == sorted(waves) != orders[0]


def test_what_is_packed_without_options_stays_where_it_is(tmp_path):
    """Another order, rate, codec or size of shards would pack VoxCeleb again, and train another network."""
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir)
    expected = sorted(waves)
    random.Random(42).shuffle(expected)
    assert ShardReader(data_dir / "shard.list").keys == expected
    before = contents(data_dir)
    options = {"sample_rate": 16000, "codec": "wav", "utterances_per_shard": 1000, "shuffle": True, "num_workers": 1}
    pack_data_dir(data_dir, **options, seed=42, min_duration_s=0.0, silence_peak_db=-60.0, max_bad_fraction=0.0)
    assert contents(data_dir) == before


def test_samples_are_rounded_to_the_nearest_and_clipped_by_hand():
    waveform = np.array([0.0, 1.4, 1.6, -1.4, -1.6, 32766.7, 32768.0, 40000.0, -32768.0, -40000.0], np.float32) / 32768
    expected = [0, 1, 2, -1, -2, 32767, 32767, 32767, -32768, -32768]
    assert to_pcm16(waveform).dtype == np.int16
    assert to_pcm16(waveform).tolist() == expected


def test_what_is_silent_is_for_the_user_to_say(tmp_path):
    data_dir, _ = make_data_dir(tmp_path)
    quiet = next(iter(DataDir.read(data_dir).wav.values()))
    write_wav(quiet, tone(1, 5000) / 100, RATE)  # a peak of about -50 dB
    with pytest.raises(RecipeError, match=r"1 of 7 .*\n.*: silent"):
        pack_data_dir(data_dir, silence_peak_db=-40.0)
    pack_data_dir(data_dir, silence_peak_db=-60.0)
    assert len(ShardReader(data_dir / "shard.list")) == 7


def test_complete_shards_are_kept_and_changed_audio_is_packed_again(packed, caplog):
    data_dir, waves = packed
    tars = sorted((data_dir / "shards").glob("*.tar"))
    before = [tar.stat().st_mtime_ns for tar in tars]
    (data_dir / "shards" / ".done" / "shards_000001").unlink()  # as if packing had been interrupted there
    with caplog.at_level("INFO"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert "2 of 3 shards are complete and kept" in caplog.text
    after = [tar.stat().st_mtime_ns for tar in tars]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]

    key = min(waves)
    waves[key] = tone(99, 5000)
    write_wav(DataDir.read(data_dir).wav[key], waves[key], RATE)
    pack_data_dir(data_dir, utterances_per_shard=3)
    reader = ShardReader(data_dir / "shard.list")
    np.testing.assert_array_equal(reader.read(reader.index_of(key)), waves[key])


def test_a_finished_packing_is_left_alone_but_a_stricter_limit_counts(tmp_path, caplog):
    data_dir, _ = make_data_dir(tmp_path)
    pack_data_dir(data_dir, min_duration_s=0.2, max_bad_fraction=0.2)
    before = (data_dir / "shard.list").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        pack_data_dir(data_dir, min_duration_s=0.2, max_bad_fraction=0.2)
    assert "set: nothing changed since the last run, skipped" in caplog.text
    assert (data_dir / "shard.list").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="1 of 7"):
        pack_data_dir(data_dir, min_duration_s=0.2)
    assert not (data_dir / "shard.list").exists()


def test_packing_into_fewer_shards_leaves_no_stray(packed):
    data_dir, _ = packed
    pack_data_dir(data_dir, utterances_per_shard=100)
    assert [path.name for path in sorted((data_dir / "shards").glob("*.tar"))] == ["shards_000000.tar"]
    assert len(ShardReader(data_dir / "shard.list")) == 7


def test_other_rates_and_channels_become_16_khz_mono(tmp_path):
    source = tmp_path / "stereo8k.flac"
    soundfile.write(source, np.stack([tone(1, 8000), tone(2, 8000)], axis=1), 8000)
    DataDir(wav={"a": str(source)}, speaker={"a": "s"}, duration_s={"a": 1.0}).write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    wave = ShardReader(tmp_path / "set" / "shard.list").read(0)
    assert len(wave) == 16000
    np.testing.assert_allclose(wave, read_audio_at(source, RATE), atol=0.51 / 32768)


def spoil(data_dir):
    """Make one recording of each fault; returns key -> part of the reason."""
    data = DataDir.read(data_dir)
    keys = sorted(data.wav)
    write_wav(data.wav[keys[0]], np.full(5000, 0.25, np.float32), RATE)
    write_wav(data.wav[keys[1]], tone(1, 500), RATE)
    soundfile.write(data.wav[keys[2]], np.array([0.1, np.nan] * 3000, np.float32), RATE, subtype="FLOAT")
    with open(data.wav[keys[3]], "wb") as handle:
        handle.write(b"not audio at all")
    os.unlink(data.wav[keys[4]])
    reasons = ["silent: no signal", "too short: 0.031 s", "not a number", "cannot be decoded", "no such file"]
    return dict(zip(keys, reasons, strict=False))


def test_bad_audio_stops_packing_and_is_listed(tmp_path, caplog):
    data_dir, waves = make_data_dir(tmp_path, num_utterances=10)
    pack_data_dir(data_dir)
    reasons = spoil(data_dir)
    with pytest.raises(RecipeError, match=r"(?s)bad_audio.tsv: 5 of 10 .*--max_bad_fraction 0.5") as error:
        pack_data_dir(data_dir, utterances_per_shard=3, min_duration_s=0.1)
    assert str(data_dir / "bad_audio.tsv") in str(error.value) and next(iter(reasons)) in str(error.value)
    assert not (data_dir / "shard.list").exists(), "a list of an earlier packing must not survive a failed one"
    rows = [line.split("\t") for line in (data_dir / "bad_audio.tsv").read_text().splitlines()]
    assert rows[0] == ["key", "path", "reason"]
    assert {row[0] for row in rows[1:]} == set(reasons)
    for key, path, reason in rows[1:]:
        assert reasons[key] in reason and path.endswith(f"{key}.wav")

    with caplog.at_level("INFO"):
        pack_data_dir(data_dir, utterances_per_shard=3, min_duration_s=0.1, max_bad_fraction=0.5)
    assert "packed 5 recordings into 4 shard(s)" in caplog.text
    reader = ShardReader(data_dir / "shard.list")
    assert set(reader.keys) == set(waves) - set(reasons)
    with pytest.raises(RecipeError, match="no recording"):
        reader.index_of(next(iter(reasons)))


def test_only_bad_audio_is_an_error_whatever_the_limit(tmp_path):
    data_dir, _ = make_data_dir(tmp_path)
    with pytest.raises(RecipeError, match="7 of 7"):
        pack_data_dir(data_dir, min_duration_s=100.0, max_bad_fraction=1.0)


def test_mended_audio_removes_the_list(tmp_path):
    data_dir, _ = make_data_dir(tmp_path)
    with pytest.raises(RecipeError):
        pack_data_dir(data_dir, min_duration_s=0.2)
    pack_data_dir(data_dir, min_duration_s=0.1)
    assert not (data_dir / "bad_audio.tsv").exists()


@pytest.mark.parametrize("command", ["touch {ran} |", "|touch {ran}", "touch {ran}|", "-"])
def test_a_command_in_wav_scp_is_refused_and_not_run(tmp_path, command):
    wav = {"a": command.format(ran=tmp_path / "ran")}
    DataDir(wav=wav, speaker={"a": "s"}, duration_s={"a": 1.0}).write(tmp_path / "set")
    with pytest.raises(RecipeError, match=r"wav\.scp:1: is a command"):
        pack_data_dir(tmp_path / "set")
    assert not (tmp_path / "ran").exists()


def test_an_unknown_codec_is_refused(packed):
    with pytest.raises(RecipeError, match="'mp3' is not known; expected one of wav, flac"):
        pack_data_dir(packed[0], codec="mp3")


def test_truncated_tar(packed):
    tar = max((packed[0] / "shards").glob("*.tar"))
    os.truncate(tar, 5000)
    with pytest.raises(RecipeError, match="truncated"):
        ShardReader(packed[0] / "shard.list")


def test_tar_cut_while_it_is_read(packed):
    reader = ShardReader(packed[0] / "shard.list")
    reader.read(0)
    os.truncate(reader.index.tars[0], int(reader.index.records["offset"][0]) + 100)
    with pytest.raises(RecipeError, match=r"bytes at .*damaged"):
        reader.read(0)


def test_index_of_another_packing(packed):
    data_dir, _ = packed
    index = {path: path.read_bytes() for path in data_dir.glob("shard.index.*")}
    assert len(index) == 2
    pack_data_dir(data_dir, utterances_per_shard=3, seed=7)
    for path, content in index.items():
        path.write_bytes(content)
    with pytest.raises(RecipeError, match="of another packing"):
        ShardReader(data_dir / "shard.list")


def test_index_of_tars_of_the_same_size(tmp_path):
    data_dir, _ = make_data_dir(tmp_path, num_utterances=6, growth=0)
    pack_data_dir(data_dir, utterances_per_shard=3)
    first, second = ShardReader(data_dir / "shard.list").index.tars
    contents = [path.read_bytes() for path in (first, second)]
    assert len(contents[0]) == len(contents[1])
    for path, content in zip((second, first), contents, strict=True):
        time = path.stat().st_mtime_ns
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
    with pytest.raises(RecipeError, match=r"tar member .*, expected .*the index is of another packing"):
        ShardReader(data_dir / "shard.list").read(0)


def flip_bit(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def assert_packing_mends(data_dir, waves, **options):
    """Stage 2, as the message says, and all is as before."""
    pack_data_dir(data_dir, utterances_per_shard=3, **options)
    reader = ShardReader(data_dir / "shard.list")
    for i, key in enumerate(reader.keys):
        np.testing.assert_array_equal(reader.read(i), waves[key])


@pytest.mark.parametrize("name", ["shard.index.npy", "shard.index.json"])
def test_every_flipped_bit_of_the_index_is_found(packed, name):
    """An offset moved by two bytes, or a speaker that changes its name, would train without a word."""
    data_dir, waves = packed
    path = data_dir / name
    tars = {tar: tar.stat().st_mtime_ns for tar in (data_dir / "shards").glob("*.tar")}
    for at in np.random.default_rng(3).choice(path.stat().st_size, 60, replace=False).tolist():
        flip_bit(path, at)
        with pytest.raises(RecipeError, match=r"shard.index.*run stage 2"):
            ShardReader(data_dir / "shard.list")
        flip_bit(path, at)
    flip_bit(path, path.stat().st_size // 2)
    assert_packing_mends(data_dir, waves)
    assert tars == {tar: tar.stat().st_mtime_ns for tar in (data_dir / "shards").glob("*.tar")}


def test_a_moved_offset_and_an_edited_fact_are_found(packed):
    data_dir, waves = packed
    records = np.load(data_dir / "shard.index.npy")
    records["offset"][1] += 2
    np.save(data_dir / "shard.index.npy", records)
    with pytest.raises(RecipeError, match=r"shard.index.npy: damaged or edited"):
        ShardReader(data_dir / "shard.list")
    assert_packing_mends(data_dir, waves)
    facts = json.loads((data_dir / "shard.index.json").read_text())
    facts["speakers"].reverse()
    (data_dir / "shard.index.json").write_text(json.dumps(facts))
    with pytest.raises(RecipeError, match=r"shard.index.json: damaged or edited"):
        ShardReader(data_dir / "shard.list")
    assert_packing_mends(data_dir, waves)


@pytest.mark.parametrize("name", ["shards_000001.index.tsv", "shards_000001.bad.tsv"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_list_that_is_cut_at_a_line_end_is_found(packed, name, kept):
    data_dir, waves = packed
    path = data_dir / "shards" / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: min(kept, len(lines) - 1)]))
    (data_dir / "shard.index.json").unlink()
    with pytest.raises(RecipeError, match=rf"{name}: .*remove .*\.done/shards_000001 and pack again"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    (data_dir / "shards" / ".done" / "shards_000001").unlink()
    assert_packing_mends(data_dir, waves)


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_a_changed_sample_is_found_when_a_whole_recording_is_read(tmp_path, codec):
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec, utterances_per_shard=3)
    reader = ShardReader(data_dir / "shard.list")
    record = reader.index.records[1]
    flip_bit(reader.index.tars[record["shard"]], int(record["offset"] + record["num_bytes"] // 2))
    with pytest.raises(RecipeError, match=rf"recording {reader.keys[1]} .*CRC-32"):
        reader.read(1)
    np.testing.assert_array_equal(reader.read(0), waves[reader.keys[0]])


@pytest.mark.parametrize(
    "first_old", ["shards_000000.bad", "shards_000001.bad", "shards_000001.index", "shards_000002.bad"]
)
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_lists_of_an_earlier_version_get_checksums_without_packing_again(tmp_path, codec, first_old):
    """Version 2 wrote neither checksums nor header lengths; who was interrupted has written some lists again."""
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec, utterances_per_shard=3)
    digest = packed_digest(data_dir)
    lists = {path: path.read_bytes() for path in (data_dir / "shards").glob("*.tsv")}
    tars = {tar: tar.stat().st_mtime_ns for tar in (data_dir / "shards").glob("*.tar")}
    for path in lists:
        # Shard after shard, the bad list before the index.
        if (path.name[:13], ".index" in path.name) < (first_old[:13], ".index" in first_old):
            continue
        lines = path.read_text().splitlines()[:-1]
        columns = 7 if path.name.endswith(".index.tsv") else 3
        path.write_text("".join("\t".join(line.split("\t")[:columns]) + "\n" for line in lines))
    facts = json.loads((data_dir / "shard.index.json").read_text())
    (data_dir / "shard.index.json").write_text(json.dumps(facts | {"version": 2}))
    with pytest.raises(RecipeError, match=r"of another version.*run stage 2"):
        packed_digest(data_dir)
    assert_packing_mends(data_dir, waves, codec=codec)
    assert tars == {tar: tar.stat().st_mtime_ns for tar in tars}
    assert lists == {path: path.read_bytes() for path in lists}
    assert packed_digest(data_dir) == digest


def test_the_digest_says_what_is_packed_not_when_or_where(tmp_path):
    data_dir, waves = make_data_dir(tmp_path / "a")
    pack_data_dir(data_dir, utterances_per_shard=3)
    digest = packed_digest(data_dir)
    other, _ = make_data_dir(tmp_path / "b")
    pack_data_dir(other, utterances_per_shard=3, num_workers=2)
    assert packed_digest(other) == digest
    shutil.rmtree(other)
    shutil.copytree(data_dir, other)
    (other / "shard.list").write_text((data_dir / "shard.list").read_text().replace(str(data_dir), str(other)))
    pack_data_dir(other, utterances_per_shard=3)
    assert packed_digest(other) == digest

    key = min(waves)
    changed = waves[key].copy()
    changed[7] += 1 / 32768
    data = DataDir.read(data_dir)
    write_wav(data.wav[key], changed, RATE)
    pack_data_dir(data_dir, utterances_per_shard=3)
    with_other_audio = packed_digest(data_dir)
    write_wav(data.wav[key], waves[key], RATE)
    data.speaker[key] = "spk2"
    data.write(data_dir)
    pack_data_dir(data_dir, utterances_per_shard=3)
    assert len({digest, with_other_audio, packed_digest(data_dir)}) == 3
    with pytest.raises(RecipeError, match="pack the audio first"):
        packed_digest(tmp_path)


def test_missing_pieces_are_named(packed):
    data_dir, _ = packed
    with pytest.raises(RecipeError, match="pack the audio first"):
        ShardReader(data_dir / "nothing.list")
    (data_dir / "shards" / "shards_000000.tar").rename(data_dir / "moved.tar")
    with pytest.raises(RecipeError, match=r"names .*shards_000000.tar, which does not exist"):
        ShardReader(data_dir / "shard.list")
    (data_dir / "moved.tar").rename(data_dir / "shards" / "shards_000000.tar")
    for name in ("shard.index.json", "shard.index.npy"):
        (data_dir / name).unlink()
        with pytest.raises(RecipeError, match=r"shard.index.json: no such file.*run stage 2 again"):
            ShardReader(data_dir / "shard.list")
        before = (data_dir / "shards" / "shards_000000.tar").stat().st_mtime_ns
        pack_data_dir(data_dir, utterances_per_shard=3)  # nothing but the index is made
        assert (data_dir / "shards" / "shards_000000.tar").stat().st_mtime_ns == before
        assert len(ShardReader(data_dir / "shard.list")) == 7
    lines = (data_dir / "shard.list").read_text().splitlines()
    (data_dir / "shard.list").write_text(lines[0] + "\n")
    with pytest.raises(RecipeError, match=r"names other tars than shard\.index\.json"):
        ShardReader(data_dir / "shard.list")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_wespeaker_tar(tar, members):
    """As WeSpeaker's tools/make_shard_list.py: name -> content."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def pack_as_wespeaker(data_dir, name="shards_000000000.tar"):
    """Shards and shard.list beside the Kaldi tables."""
    data = DataDir.read(data_dir)
    tar = data_dir / "shards" / name
    members = {}
    for key, path in data.wav.items():
        members[f"{key}.spk"] = data.speaker[key].encode()
        members[f"{key}.wav"] = Path(path).read_bytes()
    make_wespeaker_tar(tar, members)
    (data_dir / "shard.list").write_text(f"{tar}\n")


@pytest.mark.parametrize("name", ["shards_000000000.tar", "shards_000000.tar"])
@pytest.mark.parametrize("audio_is_gone", [False, True])
def test_what_wespeaker_packed_is_refused_and_stays(tmp_path, name, audio_is_gone):
    data_dir, _ = make_data_dir(tmp_path)
    pack_as_wespeaker(data_dir, name)
    if audio_is_gone:
        shutil.rmtree(tmp_path / "audio")
    before = contents(tmp_path)
    with pytest.raises(RecipeError, match="nothing has been touched"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["shards/shards_000001.tar", "shards/shards_000000.bad.tsv", "bad_audio.tsv"])
def test_one_file_of_somebody_else_is_refused_by_name(tmp_path, name):
    data_dir, _ = make_data_dir(tmp_path)
    (data_dir / "shards").mkdir()
    (data_dir / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(RecipeError, match=rf"(?s)nothing has been touched.*{name}"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(tmp_path) == before


def test_beside_other_tars_packing_leaves_them_alone(tmp_path):
    data_dir, waves = make_data_dir(tmp_path)
    pack_as_wespeaker(data_dir)
    (data_dir / "shard.list").rename(data_dir / "wespeaker.list")
    before = (data_dir / "shards" / "shards_000000000.tar").read_bytes()
    pack_data_dir(data_dir, utterances_per_shard=3)
    pack_data_dir(data_dir, utterances_per_shard=100)  # fewer tars: those of ours go
    assert (data_dir / "shards" / "shards_000000000.tar").read_bytes() == before
    assert len(list((data_dir / "shards").glob("*.tar"))) == 2
    assert len(ShardReader(data_dir / "shard.list")) == len(waves)


def test_where_the_audio_is_gone_what_was_packed_stays(packed, tmp_path):
    data_dir, waves = packed
    before = contents(data_dir)
    shutil.rmtree(tmp_path / "audio")
    with pytest.raises(RecipeError, match=r"wav\.scp: none of the 7 recordings is there.*leave stage 2 out"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(data_dir) == before
    reader = ShardReader(data_dir / "shard.list")
    np.testing.assert_array_equal(reader.read(0), waves[reader.keys[0]])


def test_where_some_audio_is_gone_no_tar_is_replaced(packed):
    data_dir, waves = packed
    tars = {tar: tar.read_bytes() for tar in (data_dir / "shards").glob("*.tar")}
    lost = Path(DataDir.read(data_dir).wav[min(waves)])
    lost.rename(lost.with_suffix(".away"))
    with pytest.raises(RecipeError, match="1 of 7 recordings cannot be used"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert tars == {tar: tar.read_bytes() for tar in tars}
    lost.with_suffix(".away").rename(lost)
    assert_packing_mends(data_dir, waves)


def test_a_packing_of_a_version_without_a_ledger_is_ours(packed):
    data_dir, waves = packed
    (data_dir / LEDGER).unlink()
    (data_dir / "shards" / LEDGER).unlink()
    assert_packing_mends(data_dir, waves)
    pack_data_dir(data_dir, utterances_per_shard=2)
    assert len(ShardReader(data_dir / "shard.list")) == len(waves)


@pytest.mark.parametrize(
    "victim", ["utils.done.DoneMarker.write", "packing.shard.write_list", "packing.pack.write_index"]
)
def test_a_packing_killed_at_any_point_goes_on(tmp_path, monkeypatch, victim):
    class KilledError(BaseException):
        pass

    def kill(*_):
        raise KilledError

    data_dir, waves = make_data_dir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(f"wespeaker_qm.{victim}", kill)
        with pytest.raises(KilledError):
            pack_data_dir(data_dir, utterances_per_shard=3)
    assert not (data_dir / "shard.list").exists()
    (data_dir / "shards" / ".shards_000001.4711.tmp.tar").touch()  # of kill -9
    (data_dir / "shards" / ".mine.tmp.tar").touch()
    assert_packing_mends(data_dir, waves)
    assert [path.name for path in (data_dir / "shards").glob(".*.tar")] == [".mine.tmp.tar"]


def test_nobody_packs_under_a_reader(packed):
    data_dir, _ = packed
    program = "import sys\nfrom wespeaker_qm.packing.reader import ShardReader\n"
    program += f"reader = ShardReader({str(data_dir / 'shard.list')!r})\nprint('open', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        pack_data_dir(data_dir, utterances_per_shard=3)  # nothing to be written
        before = contents(data_dir)
        with pytest.raises(RecipeError, match=f"in use by process {other.pid} "):
            pack_data_dir(data_dir, utterances_per_shard=2)
        assert contents(data_dir) == before
        other.communicate()
    pack_data_dir(data_dir, utterances_per_shard=2)


def test_a_region_of_a_file_is_a_file_of_its_own(tmp_path):
    """A decoder must not see what stands before or behind its recording in the tar."""
    (tmp_path / "file").write_bytes(b"behold")
    with (tmp_path / "file").open("rb") as handle:
        region, alone = packing_reader._FileRegion(handle.fileno(), 1, 4), io.BytesIO(b"ehol")
        for step in ((0,), (1,), (-3, 2), (-1, 1), (-9, 1), (6,)):
            assert region.seek(*step) == alone.seek(*step)
            assert [region.read(2), region.tell(), region.read()] == [alone.read(2), alone.tell(), alone.read()]


def test_a_long_key_is_read(tmp_path):
    key = "k" * 240
    write_wav(tmp_path / "a.wav", tone(1, 4000), RATE)
    wav = str(tmp_path / "a.wav")
    DataDir(wav={key: wav}, speaker={key: "ü" * 120}, duration_s={key: 0.25}).write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    reader = ShardReader(tmp_path / "set" / "shard.list")
    np.testing.assert_array_equal(reader.read(0), tone(1, 4000))
    assert reader.speakers == ["ü" * 120]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_in_worker_processes(packed, method, monkeypatch):
    monkeypatch.setattr("wespeaker_qm.packing.reader._MAX_OPEN_SHARDS", 1)
    reader = ShardReader(packed[0] / "shard.list")
    spans = [(i, 10, 500) for i in range(len(reader))]
    expected = np.stack([reader.read(*span) for span in spans])
    # A spawned child knows the package, not the tests; and a broken pool must end, not hang.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        futures = [pool.submit(reader.read, *span) for span in spans]
        np.testing.assert_array_equal([future.result() for future in futures], expected)
    copied = pickle.dumps(reader)
    monkeypatch.setattr("wespeaker_qm.packing.index_files.sha256_of", None)  # a copy does not verify once more
    for other in (pickle.loads(copied), reader):
        other.close()
        np.testing.assert_array_equal([other.read(*span) for span in spans], expected)


@pytest.mark.parametrize(
    "entry", ["pipe:touch {ran}", "touch {ran} |", "|touch {ran}", "-", "http://127.0.0.1:9/a.tar"]
)
def test_no_entry_of_a_shard_list_is_run_or_fetched(tmp_path, entry):
    """WebDataset, which reads WeSpeaker's lists, does both."""
    (tmp_path / "shard.list").write_text(entry.format(ran=tmp_path / "ran") + "\n")
    with pytest.raises(RecipeError, match=r"shard\.list"):
        ShardReader(tmp_path / "shard.list")
    assert not (tmp_path / "ran").exists()


def silence_the_first_of(data_dir, number):
    """Zero the samples of a recording where it lies: size, headers and index stay as they are."""
    reader = ShardReader(data_dir / "shard.list")
    record = reader.index.records[int(reader.index.shard_start[number])]
    with reader.index.tars[number].open("r+b") as file:
        file.seek(int(record["offset"]) + 44)
        file.write(bytes(int(record["num_bytes"]) - 44))
    return reader.index.tars[number], record["key"].decode()


def test_other_audio_in_a_tar_is_found_where_only_chunks_are_read_and_packing_mends_it(packed):
    data_dir, waves = packed
    digest = packed_digest(data_dir)
    tar, key = silence_the_first_of(data_dir, 1)
    kept = {path: path.stat().st_mtime_ns for path in (data_dir / "shards").glob("*.tar") if path != tar}
    for look in (lambda: ShardReader(data_dir / "shard.list"), lambda: packed_digest(data_dir)):
        with pytest.raises(RecipeError, match=rf"{tar.name}: the audio of {key} is another .*--stage 2"):
            look()
    assert_packing_mends(data_dir, waves)
    assert packed_digest(data_dir) == digest
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("can_write", [True, False])
def test_copied_tars_are_compared_once(packed, monkeypatch, can_write):
    """A copy has other times; what it holds is what counts, and looking once is enough."""
    data_dir, _ = packed
    digest = packed_digest(data_dir)
    for tar in (data_dir / "shards").glob("*.tar"):
        os.utime(tar, ns=(0, tar.stat().st_mtime_ns - 10**9))
    if not can_write:

        def refuse(*args: object) -> None:
            raise OSError("read-only file system")

        monkeypatch.setattr("wespeaker_qm.packing.index_files._write_facts", refuse)
    looks = []
    whole = index_files.damaged_tars
    monkeypatch.setattr(index_files, "damaged_tars", lambda path: looks.append(path) or whole(path))
    for _ in range(3):
        assert packed_digest(data_dir) == digest
    assert len(looks) == 1
