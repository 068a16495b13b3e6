"""The reasons for which recordings are refused."""

import io
import re
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


@pytest.mark.parametrize("num_samples", [3999, 4000, 4799])
def test_the_refusal_of_short_recordings_names_the_length_that_takes_them(tmp_path: Path, num_samples: int) -> None:
    """Not only the option that leaves out most of a corpus."""
    rng = np.random.default_rng(0)
    lengths = [num_samples, 6000, 7000, 16000]
    for number, length in enumerate(lengths):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(length), 16000)
    data = DataDir(
        wav={f"u{n}": str(tmp_path / f"{n}.wav") for n in range(4)}, speaker={f"u{n}": "s" for n in range(4)}
    )
    data.write(tmp_path / "set")
    with pytest.raises(RecipeError, match="3 of 4 recordings cannot be used") as caught:
        pack_data_dir(tmp_path / "set", min_duration_s=0.5)
    message = str(caught.value)
    assert "--max_bad_fraction 0.75; 3 of them are too short" in message and "--pack_opts" in message
    proposed = re.search(r"--min_duration (\S+) takes", message)
    assert proposed is not None and float(proposed[1]) > 0.2
    pack_data_dir(tmp_path / "set", min_duration_s=float(proposed[1]))
    assert not (tmp_path / "set" / "bad_audio.tsv").exists()


def test_nobody_is_told_to_leave_out_everything(tmp_path: Path) -> None:
    """That all recordings are bad is refused with every --max_bad_fraction; and a cut one is not short."""
    (tmp_path / "cut.wav").write_bytes(truncated("WAV"))
    DataDir(wav={"a": str(tmp_path / "cut.wav")}, speaker={"a": "s"}).write(tmp_path / "set")
    with pytest.raises(RecipeError, match="Mend or remove them") as caught:
        pack_data_dir(tmp_path / "set", min_duration_s=0.5)
    assert "--max_bad_fraction" not in str(caught.value)
    assert "--min_duration" not in str(caught.value)
