"""What an index says of a packed set."""

import shutil

import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.utils.errors import RecipeError

RATE = 16000


def test_the_digest_says_what_is_packed_not_when_or_where(tmp_path, make_data_dir):
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
