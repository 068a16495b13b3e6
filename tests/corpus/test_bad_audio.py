"""The reasons for which recordings are refused."""

import io
import re
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.source import AudioError, AudioStream
from wespeaker_qm.corpus.archives import list_tar
from wespeaker_qm.corpus.bad_audio import BadAudio, check_audio, refuse_bad_audio, take_checked
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.utils.errors import RecipeError


def truncated(kind: str) -> bytes:
    """The first half of a second of noise."""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000, format=kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def whole(stream: AudioStream) -> np.ndarray:
    return np.concatenate(list(stream.blocks))


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
            take_checked(path, whole, 0.0)
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


@pytest.mark.parametrize("options", [None, "--prepare_opts"])
def test_no_option_is_named_where_there_is_none(tmp_path: Path, options: str | None) -> None:
    """egs/mini has neither: its packages are as they are."""
    bad = [BadAudio("u1", "u1.wav", "too short: 0.200 s, expected at least 0.5 s")]
    with pytest.raises(RecipeError, match="Mend or remove them") as caught:
        refuse_bad_audio(bad, 2, 0.1, tmp_path / "bad.tsv", options=options)
    for option in ("--max_bad_fraction 0.5", "--min_duration", "with run.sh in --prepare_opts"):
        assert (option in str(caught.value)) == (options is not None)


def test_nobody_is_told_to_leave_out_everything(tmp_path: Path) -> None:
    """That all recordings are bad is refused with every --max_bad_fraction; and a cut one is not short."""
    (tmp_path / "cut.wav").write_bytes(truncated("WAV"))
    DataDir(wav={"a": str(tmp_path / "cut.wav")}, speaker={"a": "s"}).write(tmp_path / "set")
    with pytest.raises(RecipeError, match="Mend or remove them") as caught:
        pack_data_dir(tmp_path / "set", min_duration_s=0.5)
    assert "--max_bad_fraction" not in str(caught.value)
    assert "--min_duration" not in str(caught.value)


RATE = 48000
NOISE = 0.1 * np.random.default_rng(1).standard_normal((RATE, 2))


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (NOISE, None),
        (NOISE[:100], "too short: 0.002 s, expected at least 0.5 s"),
        (0 * NOISE, "silent: no signal at all"),
        (0 * NOISE + 0.3, "silent: no signal at all"),
        (1e-3 * NOISE, "silent: peak -71 dB of full scale, expected at least -60 dB"),
        (1e-3 * NOISE + 0.5, "silent: peak -71 dB of full scale, expected at least -60 dB"),
        (1e8 * NOISE, None),
        (1e30 * NOISE, "has samples of [0-9.]+e\\+29, expected at most 1"),
        (NOISE + 2e4, "silent: peak -9[0-9] dB of full scale"),  # what is louder than full scale is scaled
        (NOISE + np.nan, "has samples that are infinite or not a number"),
        (np.where(np.isin(NOISE, NOISE[30000]), np.inf, NOISE), "has samples that are infinite or not a number"),
    ],
)
@pytest.mark.parametrize("block_samples", [1000, 2**19])
def test_a_check_in_blocks_finds_what_a_check_of_the_whole_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waveform: np.ndarray, reason: str | None, block_samples: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, waveform, RATE, subtype="DOUBLE")
    monkeypatch.setattr("wespeaker_qm.audio.libsndfile.BLOCK_SAMPLES", block_samples)
    if reason is None:
        assert check_audio(path, 0.5, 16000)[:2] == (RATE, RATE)
        assert len(take_checked(path, whole, 0.5)) == RATE
        return
    reasons = set()
    for check in (lambda: check_audio(path, 0.5, 16000), lambda: take_checked(path, whole, 0.5)):
        with pytest.raises(AudioError, match=f"^{reason}") as caught:
            check()
        reasons.add(str(caught.value))
    assert len(reasons) == 1


PCM = (NOISE * 32767).astype(np.int16)


def test_copies_have_one_digest_whatever_their_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, block_samples in (("a.wav", 2**19), ("a.flac", 999), ("b.wav", 12345)):
        monkeypatch.setattr("wespeaker_qm.audio.libsndfile.BLOCK_SAMPLES", block_samples)
        soundfile.write(tmp_path / name, PCM, RATE)
    digests = {check_audio(tmp_path / name, 0.5, 16000).digest for name in ("a.wav", "a.flac", "b.wav")}
    assert len(digests) == 1
    soundfile.write(tmp_path / "c.wav", PCM[::-1], RATE)
    assert check_audio(tmp_path / "c.wav", 0.5, 16000).digest not in digests


def test_a_rate_that_cannot_be_brought_to_the_wanted_one_is_a_reason(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE, 191_999)
    with pytest.raises(AudioError, match=r"^sample rate 191999 Hz, which is to 16000 Hz as 191999 to 16000"):
        check_audio(tmp_path / "a.wav", 0.0, 16000)
    assert check_audio(tmp_path / "a.wav", 0.0, 191_999).sample_rate == 191_999


PEAK_MEMORY = """
import re, sys
from wespeaker_qm.corpus.bad_audio import check_audio
def peak_mib():
    # Not ru_maxrss, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
check_audio(sys.argv[1], 0.5, 16000)
before = peak_mib()
print(check_audio(sys.argv[2], 0.5, 16000).num_samples, peak_mib() - before)
"""


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_checking_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path, kind: str) -> None:
    """Ten minutes of 48 kHz stereo would take 330 MiB: 110 of mono floats, and twice that for its channels."""
    soundfile.write(tmp_path / f"short.{kind}", NOISE, RATE)
    num_samples = 600 * RATE
    if kind == "ogg":  # recordings that follow each other
        (tmp_path / "long.ogg").write_bytes(600 * (tmp_path / "short.ogg").read_bytes())
    else:
        with soundfile.SoundFile(tmp_path / f"long.{kind}", "w", RATE, 2) as file:
            file.write(NOISE)
            if kind == "flac":
                for _ in range(599):
                    file.write(np.zeros((RATE, 2)))
    if kind == "wav":  # the rest of it is a hole in the file, and needs no disk
        with (tmp_path / "long.wav").open("r+b") as raw:
            raw.truncate(44 + 4 * num_samples)
            for at, number in ((4, 36 + 4 * num_samples), (40, 4 * num_samples)):
                raw.seek(at)
                raw.write(struct.pack("<I", number))
    command = [sys.executable, "-c", PEAK_MEMORY, str(tmp_path / f"short.{kind}"), str(tmp_path / f"long.{kind}")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    checked, added_mib = result.stdout.split()
    assert int(checked) == num_samples
    assert float(added_mib) < 64
