"""Packing and random access: what goes in comes out, whoever reads it and however many workers wrote it."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import read_audio, read_audio_at, write_wav
from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.corpus.archives import list_tar
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import LEDGER

RATE = 16000


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").glob("shards_*"))}


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


def test_workers_change_nothing(tmp_path, make_data_dir):
    data_dir, _ = make_data_dir(tmp_path)
    pack_data_dir(data_dir, utterances_per_shard=3, num_workers=1)
    alone = all_bytes(data_dir)
    for marker in (data_dir / "shards" / ".done").iterdir():
        marker.unlink()
    pack_data_dir(data_dir, utterances_per_shard=3, num_workers=2)
    assert all_bytes(data_dir) == alone


def test_the_seed_shuffles_and_no_shuffle_sorts(tmp_path, make_data_dir):
    data_dir, waves = make_data_dir(tmp_path)
    orders = []
    for options in ({"seed": 1}, {"seed": 2}, {"seed": 1}, {"shuffle": False}):
        pack_data_dir(data_dir, **options)
        orders.append(ShardReader(data_dir / "shard.list").keys)
    assert orders[0] == orders[2] != orders[1]
    assert orders[3] == sorted(waves) != orders[0]


def test_what_is_packed_without_options_stays_where_it_is(tmp_path, contents, make_data_dir):
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


def test_what_is_silent_is_for_the_user_to_say(tmp_path, make_data_dir, tone):
    data_dir, _ = make_data_dir(tmp_path)
    quiet = next(iter(DataDir.read(data_dir).wav.values()))
    write_wav(quiet, tone(1, 5000) / 100, RATE)  # a peak of about -50 dB
    with pytest.raises(RecipeError, match=r"1 of 7 .*\n.*: silent"):
        pack_data_dir(data_dir, silence_peak_db=-40.0)
    pack_data_dir(data_dir, silence_peak_db=-60.0)
    assert len(ShardReader(data_dir / "shard.list")) == 7


def test_complete_shards_are_kept_and_changed_audio_is_packed_again(packed, caplog, tone):
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


def test_a_finished_packing_is_left_alone_but_a_stricter_limit_counts(tmp_path, caplog, make_data_dir):
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


def test_other_rates_and_channels_become_16_khz_mono(tmp_path, tone):
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
    write_wav(data.wav[keys[1]], np.full(500, 0.25, np.float32), RATE)
    soundfile.write(data.wav[keys[2]], np.array([0.1, np.nan] * 3000, np.float32), RATE, subtype="FLOAT")
    with open(data.wav[keys[3]], "wb") as handle:
        handle.write(b"not audio at all")
    os.unlink(data.wav[keys[4]])
    reasons = ["silent: no signal", "too short: 0.031 s", "not a number", "cannot be decoded", "no such file"]
    return dict(zip(keys, reasons, strict=False))


def test_bad_audio_stops_packing_and_is_listed(tmp_path, caplog, make_data_dir):
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
    assert "packed 5 recordings into 4 shards" in caplog.text
    reader = ShardReader(data_dir / "shard.list")
    assert set(reader.keys) == set(waves) - set(reasons)
    with pytest.raises(RecipeError, match="no recording"):
        reader.index_of(next(iter(reasons)))


def test_only_bad_audio_is_an_error_whatever_the_limit(tmp_path, make_data_dir):
    data_dir, _ = make_data_dir(tmp_path)
    with pytest.raises(RecipeError, match="7 of 7"):
        pack_data_dir(data_dir, min_duration_s=100.0, max_bad_fraction=1.0)


def test_mended_audio_removes_the_list(tmp_path, make_data_dir):
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


@pytest.mark.parametrize(
    "first_old", ["shards_000000.bad", "shards_000001.bad", "shards_000001.index", "shards_000002.bad"]
)
@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_lists_of_an_earlier_version_get_checksums_without_packing_again(
    tmp_path, codec, first_old, assert_packing_mends, make_data_dir
):
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
def test_what_wespeaker_packed_is_refused_and_stays(tmp_path, name, audio_is_gone, contents, make_data_dir):
    data_dir, _ = make_data_dir(tmp_path)
    pack_as_wespeaker(data_dir, name)
    if audio_is_gone:
        shutil.rmtree(tmp_path / "audio")
    before = contents(tmp_path)
    with pytest.raises(RecipeError, match="nothing has been touched"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["shards/shards_000001.tar", "shards/shards_000000.bad.tsv", "bad_audio.tsv"])
def test_one_file_of_somebody_else_is_refused_by_name(tmp_path, name, contents, make_data_dir):
    data_dir, _ = make_data_dir(tmp_path)
    (data_dir / "shards").mkdir()
    (data_dir / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(RecipeError, match=rf"(?s)nothing has been touched.*{name}"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(tmp_path) == before


def test_beside_other_tars_packing_leaves_them_alone(tmp_path, make_data_dir):
    data_dir, waves = make_data_dir(tmp_path)
    pack_as_wespeaker(data_dir)
    (data_dir / "shard.list").rename(data_dir / "wespeaker.list")
    before = (data_dir / "shards" / "shards_000000000.tar").read_bytes()
    pack_data_dir(data_dir, utterances_per_shard=3)
    pack_data_dir(data_dir, utterances_per_shard=100)  # fewer tars: those of ours go
    assert (data_dir / "shards" / "shards_000000000.tar").read_bytes() == before
    assert len(list((data_dir / "shards").glob("*.tar"))) == 2
    assert len(ShardReader(data_dir / "shard.list")) == len(waves)


def test_where_the_audio_is_gone_what_was_packed_stays(packed, tmp_path, contents):
    data_dir, waves = packed
    before = contents(data_dir)
    shutil.rmtree(tmp_path / "audio")
    with pytest.raises(RecipeError, match=r"wav\.scp: none of the 7 recordings is there.*leave stage 2 out"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert contents(data_dir) == before
    reader = ShardReader(data_dir / "shard.list")
    np.testing.assert_array_equal(reader.read(0), waves[reader.keys[0]])


def test_where_some_audio_is_gone_no_tar_is_replaced(packed, assert_packing_mends):
    data_dir, waves = packed
    tars = {tar: tar.read_bytes() for tar in (data_dir / "shards").glob("*.tar")}
    lost = Path(DataDir.read(data_dir).wav[min(waves)])
    lost.rename(lost.with_suffix(".away"))
    with pytest.raises(RecipeError, match="1 of 7 recordings cannot be used"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    assert tars == {tar: tar.read_bytes() for tar in tars}
    lost.with_suffix(".away").rename(lost)
    assert_packing_mends(data_dir, waves)


def test_a_packing_of_a_version_without_a_ledger_is_ours(packed, assert_packing_mends):
    data_dir, waves = packed
    (data_dir / LEDGER).unlink()
    (data_dir / "shards" / LEDGER).unlink()
    assert_packing_mends(data_dir, waves)
    pack_data_dir(data_dir, utterances_per_shard=2)
    assert len(ShardReader(data_dir / "shard.list")) == len(waves)


@pytest.mark.parametrize(
    "victim", ["utils.done.DoneMarker.write", "packing.shard.write_list", "packing.pack.write_index"]
)
def test_a_packing_killed_at_any_point_goes_on(tmp_path, monkeypatch, victim, assert_packing_mends, make_data_dir):
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


def test_what_no_decoder_takes_is_listed_wherever_it_lies(tmp_path, make_data_dir):
    """Files, segments and members of archives; the archives of two are gone, and one is a folder."""
    data_dir, _ = make_data_dir(tmp_path, num_utterances=20)
    data = DataDir.read(data_dir)
    keys = sorted(data.wav)
    sound = 0.1 * np.random.default_rng(0).standard_normal(48000)
    soundfile.write(tmp_path / "odd.wav", sound, 191_999)
    soundfile.write(tmp_path / "impossible.wav", sound, 999_983)
    soundfile.write(tmp_path / "promises.flac", sound, RATE)
    content = bytearray((tmp_path / "promises.flac").read_bytes())
    content[21] |= 0x0F
    (tmp_path / "promises.flac").write_bytes(content)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "promises.flac", "promises.flac")
    (member,) = list_tar(tmp_path / "a.tar")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    wav = {
        str(tmp_path / "odd.wav"): "191999 to 16000",
        str(tmp_path / "impossible.wav"): "999983 Hz, expected 1000 to 768000",
        str(tmp_path / "promises.flac"): "samples can be decoded",
        member.locator: "samples can be decoded",
        f"segment:0.5:1.0:{tmp_path / 'promises.flac'}": "samples can be decoded",
        f"segment:0.5:1.0:{member.locator}": "samples can be decoded",
        str(tmp_path / "folder.wav"): "is a folder",
        str(tmp_path / "pipe.wav"): "is a pipe",
        f"zip:0:10:0:00000000:{tmp_path / 'gone.zip'}!/x": "no such archive",
        f"lmdb:{tmp_path / 'gone.lmdb'}!/x": "not an LMDB",
    }
    lines = dict(zip(keys, wav, strict=False))
    scp = "".join(f"{key} {lines.get(key, data.wav[key])}\n" for key in keys)
    (data_dir / "wav.scp").write_text(scp)
    (data_dir / "utt2dur").unlink()
    pack_data_dir(data_dir, max_bad_fraction=0.5)
    rows = [line.split("\t") for line in (data_dir / "bad_audio.tsv").read_text().splitlines()[1:]]
    assert {path for _, path, _ in rows} == set(wav)
    for _, path, reason in rows:
        assert wav[path] in reason
    assert len(ShardReader(data_dir / "shard.list")) == 10


PEAK_MEMORY = """
import re, sys
from wespeaker_qm.packing.shard import PackOptions, PlannedRecording, encode
def peak_mib():
    # Not ru_maxrss, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
options = PackOptions(16000, "wav", 0.5, -60.0)
encode(PlannedRecording("k", "s", sys.argv[1], False), options)
before = peak_mib()
print(encode(PlannedRecording("k", "s", sys.argv[2], False), options).num_samples, peak_mib() - before)
"""


def test_packing_a_long_recording_takes_little_more_memory_than_what_is_packed(tmp_path):
    """Ten minutes of 48 kHz stereo are 330 MiB of floats, and become 18 MiB."""
    rng, second = np.random.default_rng(0), 48000
    for name, num_seconds in (("short", 1), ("long", 600)):
        with soundfile.SoundFile(tmp_path / f"{name}.wav", "w", second, 2) as file:
            for _ in range(num_seconds):
                file.write(0.1 * rng.standard_normal((second, 2)))
    command = [sys.executable, "-c", PEAK_MEMORY, str(tmp_path / "short.wav"), str(tmp_path / "long.wav")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    num_samples, added_mib = result.stdout.split()
    assert int(num_samples) == 600 * RATE
    assert float(added_mib) < 200


def test_a_long_loud_recording_is_packed_as_if_read_in_one_piece(tmp_path, monkeypatch):
    """A float file beyond full scale, whose peak is known only at its end, in several blocks; and a segment of it."""
    rng = np.random.default_rng(0)
    loud = (rng.standard_normal((90_000, 2)) * np.linspace(0.1, 4, 90_000)[:, None]).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", loud, 48000, subtype="FLOAT")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "loud.wav", "loud.wav")
    (member,) = list_tar(tmp_path / "a.tar")
    wav = {"file": str(tmp_path / "loud.wav"), "member": member.locator}
    wav["segment"] = f"segment:1:1.5:{tmp_path / 'loud.wav'}"
    expected = {key: read_audio_at(tmp_path / "loud.wav", RATE) for key in ("file", "member")}
    part, rate = read_audio(tmp_path / "loud.wav", start=48000, num_samples=24000)
    expected["segment"] = resample_audio(part, rate, RATE)
    for module in ("libsndfile", "resample"):
        monkeypatch.setattr(f"wespeaker_qm.audio.{module}.BLOCK_SAMPLES", 5000)
    DataDir(wav=wav, speaker=dict.fromkeys(wav, "s")).write(tmp_path / "set")
    pack_data_dir(tmp_path / "set")
    reader = ShardReader(tmp_path / "set" / "shard.list")
    for key, waveform in expected.items():
        pcm = np.clip(np.rint(waveform * 32768), -32768, 32767)
        np.testing.assert_array_equal(reader.read(reader.index_of(key)) * 32768, pcm)
