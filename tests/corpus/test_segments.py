"""Segments of recordings: cut to the sample, packed under their own names, and refused where they cannot be right."""

import io
import shutil
import zipfile
from decimal import Decimal

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpus.archives import list_zip
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.segments import Span, read_span, split_segment
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.errors import RecipeError

RATE = 16000
SEGMENTS = {"a-1": ("rec-a", "0.35", "1.10"), "a-2": ("rec-a", "1.1", "-1"), "b-1": ("rec-b", "0", "0.29")}


@pytest.fixture
def recordings():
    """Of 2 s each, exact in 16 bits."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(-9000, 9000, 2 * RATE) / np.float32(32768) for name in ("rec-a", "rec-b")}


@pytest.fixture
def data_dir(tmp_path, recordings):
    """A Kaldi directory whose utterances are parts of its recordings."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, waveform in recordings.items():
        write_wav(tmp_path / f"{name}.wav", waveform, RATE)
    (folder / "wav.scp").write_text("".join(f"{name} {tmp_path / name}.wav\n" for name in recordings))
    (folder / "utt2spk").write_text("".join(f"{key} {key[0]}\n" for key in SEGMENTS))
    (folder / "segments").write_text("".join(f"{key} {' '.join(values)}\n" for key, values in SEGMENTS.items()))
    return folder


def expected(recordings):
    return {
        "a-1": recordings["rec-a"][5600:17600],
        "a-2": recordings["rec-a"][17600:],
        "b-1": recordings["rec-b"][:4640],
    }


def packed(data_dir):
    reader = ShardReader(data_dir / "shard.list")
    return {key: reader.read(i) for i, key in enumerate(reader.keys)}, dict(
        zip(reader.keys, reader.speakers, strict=True)
    )


def test_segments_are_packed_to_the_sample(data_dir, recordings):
    pack_data_dir(data_dir)
    waves, speakers = packed(data_dir)
    assert speakers == {"a-1": "a", "a-2": "a", "b-1": "b"}
    for key, wave in expected(recordings).items():
        np.testing.assert_array_equal(waves[key], wave)


def test_segments_of_other_rates_formats_and_archives(data_dir, recordings, tmp_path):
    """Stereo at 8 kHz as FLAC, and a member of a zip archive."""
    halves = recordings["rec-a"][::2]
    soundfile.write(tmp_path / "a.flac", np.stack([halves, halves], axis=1), 8000, subtype="PCM_16")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "rec-b.wav", "rec-b.wav")
    (member,) = list_zip(tmp_path / "b.zip")
    (data_dir / "wav.scp").write_text(f"rec-a {tmp_path / 'a.flac'}\nrec-b {member.locator}\n")
    pack_data_dir(data_dir)
    waves, _ = packed(data_dir)
    np.testing.assert_array_equal(waves["b-1"], expected(recordings)["b-1"])
    assert len(waves["a-1"]) == 12000 and len(waves["a-2"]) == 14400
    assert np.abs(waves["a-1"][::2][200:-200] - halves[2800:8800][200:-200]).mean() < 0.3 * np.abs(halves).mean()


def test_other_times_and_other_audio_are_packed_again(data_dir, recordings, tmp_path):
    pack_data_dir(data_dir)
    text = (data_dir / "segments").read_text()
    (data_dir / "segments").write_text(text.replace("0.35", "0.36"))
    pack_data_dir(data_dir)
    np.testing.assert_array_equal(packed(data_dir)[0]["a-1"], recordings["rec-a"][5760:17600])
    write_wav(tmp_path / "rec-a.wav", recordings["rec-b"], RATE)
    pack_data_dir(data_dir)
    np.testing.assert_array_equal(packed(data_dir)[0]["a-1"], recordings["rec-b"][5760:17600])


def test_a_segment_beyond_the_end_is_bad_audio(data_dir):
    (data_dir / "segments").write_text("a-1 rec-a 0.5 2.5\na-2 rec-a 2.5 -1\nb-1 rec-b 0 1.5\n")
    with pytest.raises(RecipeError, match=r"2 of 3 .*(?s:.*)segment 0\.5 to 2\.5 s, but the recording has 2\.000 s"):
        pack_data_dir(data_dir)
    pack_data_dir(data_dir, max_bad_fraction=0.7)
    assert list(packed(data_dir)[0]) == ["b-1"]


def test_an_end_that_was_rounded_up_is_the_recordings(data_dir, recordings):
    (data_dir / "segments").write_text("a-1 rec-a 0.5 2.01\na-2 rec-a 0.1 0.2\nb-1 rec-b 1e-1 0.2\n")
    pack_data_dir(data_dir)
    np.testing.assert_array_equal(packed(data_dir)[0]["a-1"], recordings["rec-a"][8000:])
    np.testing.assert_array_equal(packed(data_dir)[0]["b-1"], recordings["rec-b"][1600:3200])


def test_where_the_recording_is_gone_its_segments_are(data_dir, tmp_path):
    pack_data_dir(data_dir)
    for name in ("rec-a", "rec-b"):
        (tmp_path / f"{name}.wav").unlink()
    with pytest.raises(RecipeError, match="none of the 3 recordings is there"):
        pack_data_dir(data_dir, utterances_per_shard=2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b-1 rec-b 0", r"segments:3: 3 field"),
        ("b-1 rec-c 0 1", r"'b-1' is of recording 'rec-c', which is not in wav\.scp"),
        ("b-1 rec-b 1 0.5", r"'b-1' goes from 1 to 0\.5 s, expected 0 <= start < end"),
        ("b-1 rec-b 1 1", r"'b-1' goes from 1 to 1 s"),
        ("b-1 rec-b -1 1", r"'b-1' goes from -1 to 1 s"),
        ("b-1 rec-b 0 -2", r"'b-1' goes from 0 to -2 s"),
        ("b-1 rec-b 0 one", r"'b-1' has the time 'one', expected seconds"),
        ("b-1 rec-b nan 1", r"'b-1' has the time 'nan', expected seconds"),
        ("b-1 rec-b 0 sNaN", r"'b-1' has the time 'sNaN', expected seconds"),
        ("b-1 rec-b 0 1e999999999", r"'b-1' has the time '1e999999999', expected seconds: below 1e10"),
        ("b-1 rec-b 1e-999999999 1", r"'b-1' has the time '1e-999999999', expected seconds: .*at most 400 decimals"),
        ("b-1 rec-b -1e999999 1", r"'b-1' has the time '-1e999999', expected seconds"),
        ("b-1 rec-b 0 1e99999999999999999999", r"'b-1' has the time '1e99999999999999999999', expected seconds"),
        ("b-1 rec-b 0 1 B", r"'b-1' has the fields 'rec-b 0 1 B', .*a channel cannot be chosen here"),
        ("a-1 rec-b 0 1", r"'a-1' stands twice"),
        ("c-1 rec-b 0 1", r"/segments and .*/utt2spk differ in 2 key"),
    ],
)
def test_what_cannot_be_meant_is_refused(data_dir, line, message):
    lines = (data_dir / "segments").read_text().splitlines()
    (data_dir / "segments").write_text("\n".join([*lines[:2], line]) + "\n")
    with pytest.raises(RecipeError, match=message):
        pack_data_dir(data_dir)
    assert not (data_dir / "shards").exists()


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("spk2utt", "a a-1 a-2 b-1\n", r"spk2utt: 'b-1' is of 'a', but of 'b' in utt2spk"),
        ("spk2warp", "a 0.9\n", r"spk2warp: warped frequencies"),
        ("utt2warp", "a-1 0.9\n", r"utt2warp: warped frequencies"),
        ("reco2file_and_channel", "rec-a call B\n", r"'rec-a' is channel B of call"),
        ("reco2file_and_channel", "rec-a call A\nrec-b call A\n", r"'rec-b' is channel A of call"),
        ("utt2dur", "a-1 0.75\na-2 0.9\nb-1 0.5\n", r"'b-1' lasts 0\.5 s, but 0\.29 s in segments"),
    ],
)
def test_tables_that_say_something_else_are_refused(data_dir, table, content, message):
    (data_dir / table).write_text(content)
    with pytest.raises(RecipeError, match=message):
        DataDir.read(data_dir)


def test_tables_that_say_the_same_or_nothing_of_the_audio_are_left_alone(data_dir):
    tables = {
        "spk2utt": "a a-1 a-2\nb b-1\n",
        "reco2file_and_channel": "rec-a rec-a A\nrec-b rec-b A\n",
        "utt2dur": "a-1 0.75\na-2 0.9\nb-1 0.29\n",
        "text": "a-1 hello\n",
        "feats.scp": "a-1 feats.ark:9\n",
        "vad.scp": "a-1 vad.ark:9\n",
        "utt2num_frames": "a-1 73\n",
    }
    for table, content in tables.items():
        (data_dir / table).write_text(content)
    assert sorted(DataDir.read(data_dir).wav) == sorted(SEGMENTS)


def test_features_alone_are_no_audio(data_dir):
    (data_dir / "wav.scp").rename(data_dir / "feats.scp")
    with pytest.raises(RecipeError, match=r"has feats\.scp but no wav\.scp, expected audio"):
        DataDir.read(data_dir)
    shutil.rmtree(data_dir)
    with pytest.raises(RecipeError, match=r"wav\.scp: no such file"):
        DataDir.read(data_dir)


def test_times_are_exact():
    """0.29 * 8000 is 2319.99... in binary: a float would lose a sample."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.arange(8000, dtype=np.int16), 8000, format="WAV")
    buffer.seek(0)
    waveform, _ = read_span(buffer, Span(Decimal("0.0001"), Decimal("0.29")))
    np.testing.assert_array_equal(waveform * 32768, np.arange(0, 2320))
    with pytest.raises(AudioError, match=r"but the recording has 1\.000 s"):
        read_span(buffer, Span(Decimal(1), Decimal(-1)))


@pytest.mark.parametrize("zero", ["-0", "0e-999999999", "0e999999999", "-0.00"])
def test_zero_is_the_beginning_however_it_is_written(data_dir, recordings, zero):
    lines = (data_dir / "segments").read_text().splitlines()
    (data_dir / "segments").write_text("\n".join([*lines[:2], f"b-1 rec-b {zero} 0.29"]) + "\n")
    pack_data_dir(data_dir)
    np.testing.assert_array_equal(packed(data_dir)[0]["b-1"], expected(recordings)["b-1"])


def test_a_path_is_no_segment():
    assert split_segment("segment:1.2.3:4:a.wav") == ("segment:1.2.3:4:a.wav", None)
    assert split_segment("segment:1/a.wav") == ("segment:1/a.wav", None)
    assert split_segment("segment:1:2.5:zip:1:2:0:00000000:a.zip!/b") == (
        "zip:1:2:0:00000000:a.zip!/b",
        Span(Decimal(1), Decimal("2.5")),
    )
