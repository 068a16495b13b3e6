"""Random access: any chunk of any recording, in any process, or an error that names what is damaged."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing import reader as packing_reader
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError

RATE = 16000


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_round_trip_is_bit_exact_and_a_chunk_equals_the_slice(tmp_path, codec, make_data_dir):
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


def test_index_of_tars_of_the_same_size(tmp_path, contents, make_data_dir):
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


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_a_changed_sample_is_found_when_a_whole_recording_is_read(tmp_path, codec, flip_bit, make_data_dir):
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec, utterances_per_shard=3)
    reader = ShardReader(data_dir / "shard.list")
    record = reader.index.records[1]
    flip_bit(reader.index.tars[record["shard"]], int(record["offset"] + record["num_bytes"] // 2))
    with pytest.raises(RecipeError, match=rf"recording {reader.keys[1]} .*CRC-32"):
        reader.read(1)
    np.testing.assert_array_equal(reader.read(0), waves[reader.keys[0]])


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_a_recording_is_compared_with_its_checksum_and_read_in_spans(
    tmp_path, codec, flip_bit, make_data_dir, monkeypatch
):
    monkeypatch.setattr(packing_reader, "_CHECKSUM_BLOCK_BYTES", 1000)
    data_dir, waves = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec, utterances_per_shard=3)
    reader = ShardReader(data_dir / "shard.list")
    recording, wave = reader.recording(2), waves[reader.keys[2]]
    assert len(recording) == len(wave)
    for span in (slice(0, 10), slice(100, 900), slice(2000, None), slice(None), slice(3000, 10**9), slice(10**9, None)):
        assert recording[span].dtype == np.float32
        np.testing.assert_array_equal(recording[span], wave[span])
    record = reader.index.records[2]
    flip_bit(reader.index.tars[record["shard"]], int(record["offset"] + record["num_bytes"] - 1))
    with pytest.raises(RecipeError, match=rf"recording {reader.keys[2]} .*CRC-32"):
        reader.recording(2)


def test_a_recording_that_is_decoded_from_its_beginning_is_read_whole(tmp_path, tone):
    soundfile.write(tmp_path / "a.ogg", tone(1, 4000), RATE)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        (tmp_path / "a.spk").write_text("s")
        for name in ("a.spk", "a.ogg"):
            tar.add(tmp_path / name, name)
    (tmp_path / "shard.list").write_text(f"{tmp_path / 'a.tar'}\n")
    reader = ShardReader(tmp_path / "shard.list")
    np.testing.assert_array_equal(reader.recording(0), reader.read(0))


def test_nobody_packs_under_a_reader(packed, contents):
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


def test_a_long_key_is_read(tmp_path, tone):
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


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_a_tar_that_vanishes_or_cannot_be_read_is_named(tmp_path, monkeypatch, codec, make_data_dir):
    data_dir, _ = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec=codec)
    reader = ShardReader(data_dir / "shard.list")
    reader.read(0)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", fail)
        with pytest.raises(RecipeError, match=r"shards_000000\.tar: recording .*Input/output error.*pack again"):
            reader.read(0)
    reader.close()
    (data_dir / "shards" / "shards_000000.tar").unlink()
    with pytest.raises(RecipeError, match=r"shards_000000\.tar: cannot be opened \(No such file.*pack again"):
        reader.read(0)


@pytest.mark.parametrize("failure", [ValueError("array is too big"), MemoryError(), RuntimeError("seek")])
def test_whatever_a_decoder_raises_names_the_recording(tmp_path, monkeypatch, make_data_dir, failure):
    data_dir, _ = make_data_dir(tmp_path)
    pack_data_dir(data_dir, codec="flac")
    reader = ShardReader(data_dir / "shard.list")

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("soundfile.SoundFile.read", fail)
    with pytest.raises(RecipeError, match=r"shards_000000\.tar: recording spk\d-utt"):
        reader.read(0)
