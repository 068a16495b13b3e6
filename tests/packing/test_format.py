"""Samples, and the lists beside the tars."""

import numpy as np
import pytest

from wespeaker_qm.packing.format import to_pcm16
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.utils.errors import RecipeError


def test_samples_are_rounded_to_the_nearest_and_clipped_by_hand():
    waveform = np.array([0.0, 1.4, 1.6, -1.4, -1.6, 32766.7, 32768.0, 40000.0, -32768.0, -40000.0], np.float32) / 32768
    expected = [0, 1, 2, -1, -2, 32767, 32767, 32767, -32768, -32768]
    assert to_pcm16(waveform).dtype == np.int16
    assert to_pcm16(waveform).tolist() == expected


@pytest.mark.parametrize("name", ["shards_000001.index.tsv", "shards_000001.bad.tsv"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_list_that_is_cut_at_a_line_end_is_found(packed, name, kept, assert_packing_mends):
    data_dir, waves = packed
    path = data_dir / "shards" / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: min(kept, len(lines) - 1)]))
    (data_dir / "shard.index.json").unlink()
    with pytest.raises(RecipeError, match=rf"{name}: .*remove .*\.done/shards_000001 and pack again"):
        pack_data_dir(data_dir, utterances_per_shard=3)
    (data_dir / "shards" / ".done" / "shards_000001").unlink()
    assert_packing_mends(data_dir, waves)
