"""The files of an index: every changed bit is found, and packing mends it."""

import json
import os

import numpy as np
import pytest

from wespeaker_qm.packing import index_files
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError


def test_truncated_tar(packed):
    tar = max((packed[0] / "shards").glob("*.tar"))
    os.truncate(tar, 5000)
    with pytest.raises(RecipeError, match="truncated"):
        ShardReader(packed[0] / "shard.list")


@pytest.mark.parametrize("name", ["shard.index.npy", "shard.index.json"])
def test_every_flipped_bit_of_the_index_is_found(packed, name, assert_packing_mends, flip_bit):
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


def test_a_moved_offset_and_an_edited_fact_are_found(packed, assert_packing_mends):
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
        with pytest.raises(RecipeError, match=rf"{name}: no such file.*run stage 2 again"):
            ShardReader(data_dir / "shard.list")
        before = (data_dir / "shards" / "shards_000000.tar").stat().st_mtime_ns
        pack_data_dir(data_dir, utterances_per_shard=3)  # nothing but the index is made
        assert (data_dir / "shards" / "shards_000000.tar").stat().st_mtime_ns == before
        assert len(ShardReader(data_dir / "shard.list")) == 7
    lines = (data_dir / "shard.list").read_text().splitlines()
    (data_dir / "shard.list").write_text(lines[0] + "\n")
    with pytest.raises(RecipeError, match=r"names other tars than shard\.index\.json"):
        ShardReader(data_dir / "shard.list")


def silence_the_first_of(data_dir, number):
    """Zero the samples of a recording where it lies: size, headers and index stay as they are."""
    reader = ShardReader(data_dir / "shard.list")
    record = reader.index.records[int(reader.index.shard_start[number])]
    with reader.index.tars[number].open("r+b") as file:
        file.seek(int(record["offset"]) + 44)
        file.write(bytes(int(record["num_bytes"]) - 44))
    return reader.index.tars[number], record["key"].decode()


def test_other_audio_in_a_tar_is_found_where_only_chunks_are_read_and_packing_mends_it(packed, assert_packing_mends):
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
