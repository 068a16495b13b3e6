"""The reasons for which recordings are refused."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpus.archives import list_tar
from wespeaker_qm.corpus.bad_audio import read_checked_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.utils.errors import RecipeError


def truncated(kind: str) -> bytes:
    """The first half of a second of noise."""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000, format=kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("is_archived", [False, True])
def test_a_truncated_recording_is_refused_with_its_samples(tmp_path: Path, kind: str, is_archived: bool) -> None:
    """The reason is one cell of a table, without the file's name and the same in every run."""
    path = str(tmp_path / "cut.audio")
    Path(path).write_bytes(truncated(kind))
    if is_archived:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(path, "cut.audio")
        (member,) = list_tar(tmp_path / "a.tar")
        path = member.locator
    reasons = set()
    for _ in range(2):
        with pytest.raises(AudioError, match=r"^\d+ of 16000 samples can be decoded: truncated or damaged") as caught:
            read_checked_audio(path, 0.0)
        reasons.add(str(caught.value))
    (reason,) = reasons
    assert "\n" not in reason
    assert "\t" not in reason
    assert " at 0x" not in reason


def test_packing_lists_a_truncated_recording(tmp_path: Path) -> None:
    (tmp_path / "cut.wav").write_bytes(truncated("WAV"))
    data = DataDir(wav={"a": str(tmp_path / "cut.wav")}, speaker={"a": "s"})
    data.write(tmp_path / "set")
    with pytest.raises(RecipeError, match=r"a \(.*cut\.wav\): 7989 of 16000 samples can be decoded"):
        pack_data_dir(tmp_path / "set")
    assert "7989 of 16000 samples" in (tmp_path / "set" / "bad_audio.tsv").read_text()
