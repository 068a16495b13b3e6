"""The decoder: every container and rate that users bring, and what it must refuse."""

import io
import os
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm.audio.ffmpeg import ffmpeg_blocks
from wespeaker_qm.audio.io import audio_info, read_audio, read_audio_at, stream_audio, write_wav
from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.audio.source import AudioError, AudioInfo, PartlyDecodedError, RawFormat, RefusedError, check_source
from wespeaker_qm.corpus.bad_audio import check_audio


def tone(sample_rate: int, duration_s: float = 1.0, frequency_hz: float = 440.0) -> np.ndarray:
    """A sine of amplitude 0.5, faded in and out."""
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    wave = 0.5 * np.sin(2 * np.pi * frequency_hz * time_s) * np.minimum(1, 20 * np.minimum(time_s, duration_s - time_s))
    return wave.astype(np.float32)


def write_m4a(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Samples (S,) in both channels, or (2, S)."""
    import av

    channels = np.ascontiguousarray(np.broadcast_to(waveform, (2, waveform.shape[-1])))

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=sample_rate, layout="stereo")
        for start in range(0, channels.shape[1], 1024):
            block = np.ascontiguousarray(channels[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate = sample_rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Largest normalised correlation over shifts: lossy codecs delay."""
    correlation = np.correlate(a.astype(np.float64), b.astype(np.float64), mode="full")
    return float(correlation.max() / np.sqrt((a.astype(np.float64) ** 2).sum() * (b.astype(np.float64) ** 2).sum()))


def test_wav_round_trip_is_exact_and_header_canonical(tmp_path: Path) -> None:
    values = np.array([-32768, -32767, -1, 0, 1, 12345, 32767], dtype=np.int16)
    path = tmp_path / "sub" / "a.wav"
    write_wav(path, values.astype(np.float32) / 32768, 8000)
    content = path.read_bytes()
    assert len(content) == 44 + 2 * len(values)
    assert np.array_equal(np.frombuffer(content[44:], dtype="<i2"), values)
    waveform, sample_rate = read_audio(path)
    assert sample_rate == 8000
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform * 32768, values)
    assert soundfile.info(path).subtype == "PCM_16"


def test_write_clips_and_refuses_nonsense(tmp_path: Path) -> None:
    write_wav(tmp_path / "loud.wav", np.array([2.0, -2.0, 1.0]), 16000)
    assert read_audio(tmp_path / "loud.wav")[0].tolist() == [32767 / 32768, -1.0, 32767 / 32768]
    for bad in (np.zeros(0), np.zeros((2, 2)), np.array([np.nan])):
        with pytest.raises(AudioError, match=r"bad\.wav"):
            write_wav(tmp_path / "bad.wav", bad, 16000)
    assert not (tmp_path / "bad.wav").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.wav", {}),
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.mp3", {}),
        ("b.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("b.au", {"format": "AU", "subtype": "ULAW"}),
        ("float.wav", {"subtype": "FLOAT"}),
        ("gsm.wav", {"subtype": "GSM610"}),
    ],
)
def test_formats_of_soundfile(tmp_path: Path, name: str, arguments: dict) -> None:
    sample_rate = 8000 if "gsm" in name or name.endswith(".au") else 48000
    wave = tone(sample_rate)
    path = tmp_path / name
    soundfile.write(path, wave, sample_rate, **arguments)
    read, rate = read_audio(path)
    assert rate == sample_rate
    assert read.ndim == 1
    assert similarity(read, wave) > 0.98
    assert audio_info(path).sample_rate == sample_rate


def test_m4a_from_path_and_file_object(tmp_path: Path) -> None:
    wave = tone(44100)
    path = tmp_path / "a.m4a"
    write_m4a(path, wave, 44100)
    read, rate = read_audio(path)
    assert rate == 44100
    assert similarity(read, wave) > 0.98
    info = audio_info(path)
    assert info == AudioInfo(len(read), 44100, 2)
    with path.open("rb") as handle:
        from_object, _ = read_audio(handle)
    assert np.array_equal(from_object, read)
    part, _ = read_audio(path, start=1000, num_samples=500)
    assert np.array_equal(part, read[1000:1500])


@pytest.mark.parametrize("encoding", ["gsm610", "ulaw"])
def test_headerless(tmp_path: Path, encoding: str) -> None:
    wave = tone(8000)
    path = tmp_path / "a.raw"
    soundfile.write(path, wave, 8000, format="RAW", subtype=encoding.upper())
    raw_format = RawFormat(8000, encoding)
    read, rate = read_audio(path, raw_format=raw_format)
    assert rate == 8000
    assert len(read) == len(wave)
    assert similarity(read, wave) > 0.98
    assert audio_info(path, raw_format=raw_format) == AudioInfo(8000, 8000, 1)
    part, _ = read_audio(path, start=100, num_samples=50, raw_format=raw_format)
    assert np.array_equal(part, read[100:150])


def test_channels_are_averaged_and_parts_read(tmp_path: Path) -> None:
    left, right = tone(8000), tone(8000, frequency_hz=200.0)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    read, _ = read_audio(path)
    assert np.allclose(read, (left + right) / 2, atol=1e-7)
    assert audio_info(path) == AudioInfo(8000, 8000, 2)
    assert np.array_equal(read_audio(path, start=7000, num_samples=5000)[0], read[7000:])
    memory = io.BytesIO(path.read_bytes())
    assert np.array_equal(read_audio(memory)[0], read)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(path, start=8000)


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio " * 20)
    soundfile.write(tmp_path / "header_only.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.1]), 16000, subtype="FLOAT")
    for name, reason in {
        "missing.wav": "no such file",
        "empty.wav": "0 bytes",
        "text.wav": "cannot be decoded",
        "header_only.wav": "no samples",
        "nan.wav": "not a number",
    }.items():
        with pytest.raises(AudioError, match=reason) as caught:
            read_audio(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "m4a"])
@pytest.mark.parametrize("is_inverted", [True, False])
def test_channels_that_cancel_each_other_are_told_to(tmp_path: Path, kind: str, is_inverted: bool) -> None:
    """Their mean is silence, or what a lossy codec left of them, which nobody would call silent."""
    left = tone(16000)
    right = -left if is_inverted else tone(16000, frequency_hz=700)
    path = tmp_path / f"a.{kind}"
    if kind == "m4a":
        write_m4a(path, np.stack([left, right]), 16000)
    else:
        soundfile.write(path, np.stack([left, right], axis=1), 16000)
    if not is_inverted:
        assert read_audio(path)[0].std() > 0.1
        return
    for read in (read_audio, partial(check_audio, min_duration_s=0.5, target_rate=16000)):
        with pytest.raises(AudioError, match=r"its channels cancel each other .*write one channel to a file"):
            read(path)


def test_silence_in_two_channels_is_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((16000, 2), [0.25, -0.25]), 16000)
    assert not read_audio(tmp_path / "a.wav")[0].any()


@pytest.mark.parametrize("peak", [1e10, -1e38])
def test_samples_that_are_no_levels_are_refused(tmp_path: Path, peak: float) -> None:
    """Scaled to them a voice would be silent, and the recording of the best level."""
    soundfile.write(tmp_path / "a.wav", np.concatenate([tone(16000), [peak]]), 16000, subtype="FLOAT")
    for read in (
        read_audio,
        partial(read_audio_at, sample_rate=8000),
        partial(check_audio, min_duration_s=0.5, target_rate=16000),
    ):
        with pytest.raises(AudioError, match=r"has samples of 1e\+(10|38), expected at most 1"):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("peak", [1.25, 20000.0, 2.0**31])
def test_samples_beyond_full_scale_are_scaled_not_clipped(tmp_path: Path, peak: float) -> None:
    soundfile.write(tmp_path / "loud.wav", np.array([peak, -peak / 2, 0.0]), 16000, subtype="FLOAT")
    assert read_audio(tmp_path / "loud.wav")[0].tolist() == [1.0, -0.5, 0.0]


def test_read_at_a_rate(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(8000), 8000)
    waveform = read_audio_at(tmp_path / "a.wav", 16000)
    assert np.abs(waveform - tone(16000)).max() < 2e-3
    assert np.array_equal(resample_audio(waveform, 16000, 16000), waveform)


@pytest.mark.parametrize(("sample_rate", "num_samples"), [(8000, 7), (44100, 1), (16000, 40_000)])
def test_every_field_of_the_wav_header_is_what_the_format_says(
    tmp_path: Path, sample_rate: int, num_samples: int
) -> None:
    """Microsoft's RIFF WAVE: sizes count what follows them; readers that trust them must find the end of the file."""
    path = tmp_path / "a.wav"
    write_wav(path, np.zeros(num_samples), sample_rate)
    content = path.read_bytes()
    riff, riff_bytes, wave_id, fmt, fmt_bytes, *format_fields, data, data_bytes = struct.unpack(
        "<4sI4s4sIHHIIHH4sI", content[:44]
    )
    assert (riff, wave_id, fmt, data) == (b"RIFF", b"WAVE", b"fmt ", b"data")
    assert riff_bytes == len(content) - 8
    assert fmt_bytes == 2 + 2 + 4 + 4 + 2 + 2
    assert data_bytes == len(content) - 44 == 2 * num_samples
    coding, num_channels, rate, bytes_per_s, bytes_per_sample, bits = format_fields
    assert (coding, num_channels, rate, bits) == (1, 1, sample_rate, 16)
    assert bytes_per_sample == num_channels * bits // 8
    assert bytes_per_s == rate * bytes_per_sample
    with wave.open(str(path)) as reader:  # the standard library's reader agrees
        assert reader.getparams()[:4] == (1, 2, sample_rate, num_samples)


def flac_that_promises(num_samples: int, waveform: np.ndarray) -> bytes:
    """A FLAC of 16 kHz with another length in STREAMINFO, where it has 36 bits; 0 is what a pipe's writer leaves."""
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16000, format="FLAC")
    content = bytearray(buffer.getvalue())
    content[21] = content[21] & 0xF0 | num_samples >> 32
    content[22:26] = struct.pack(">I", num_samples & 0xFFFFFFFF)
    return bytes(content)


def wav_with(**fields: int) -> bytes:
    """A second of a 16-bit tone behind a header with other numbers in it than its own."""
    header = {"channels": 1, "rate": 16000, "data_bytes": 32000} | fields
    pcm = (tone(16000) * 32767).astype("<i2").tobytes()
    fmt = struct.pack(
        "<HHIIHH", 1, header["channels"], header["rate"], 32000, min(2 * max(header["channels"], 1), 65535), 16
    )
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", header["data_bytes"]) + pcm
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("read", [read_audio, audio_info])
@pytest.mark.parametrize("num_samples", [2**36 - 1, 2**35, 2**32])
def test_a_header_that_promises_terabytes_takes_no_memory(num_samples: int, read: Callable) -> None:
    """2^36 samples are 256 GiB as floats; none of them is there."""
    with pytest.raises(PartlyDecodedError, match=f"16000 of {num_samples} samples can be decoded"):
        read(io.BytesIO(flac_that_promises(num_samples, tone(16000))))


def test_silence_of_many_samples_a_byte_is_no_lie() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(2**22), 16000, format="FLAC")
    assert audio_info(buffer).num_samples == 2**22 == len(read_audio(io.BytesIO(buffer.getvalue()))[0])


@pytest.mark.parametrize("read", [read_audio, audio_info])
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rate": 0}, "cannot be decoded"),
        ({"rate": 1}, "sample rate 1 Hz, expected 1000 to 768000"),
        ({"rate": 999_983}, "sample rate 999983 Hz, expected 1000 to 768000"),
        ({"rate": 2**31 - 1}, "sample rate 2147483647 Hz, expected 1000"),
        ({"channels": 0}, "cannot be decoded|no samples"),
        ({"channels": 65}, "65 channels, expected at most 64"),
        ({"channels": 1000}, "1000 channels, expected at most 64"),
        ({"channels": 65535}, "cannot be decoded|no samples|channels"),
    ],
)
def test_impossible_rates_and_channels_are_refused(tmp_path: Path, fields: dict, reason: str, read: Callable) -> None:
    (tmp_path / "a.wav").write_bytes(wav_with(**fields))
    with pytest.raises(AudioError, match=rf"a\.wav: .*({reason})"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [1000, 768_000])
def test_unusual_rates_within_the_limits_are_read(rate: int) -> None:
    assert read_audio(io.BytesIO(wav_with(rate=rate)))[1] == rate


def test_sixty_four_channels_are_read() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(tone(16000)[:, None], 64), 16000, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(read_audio(io.BytesIO(buffer.getvalue()))[0], tone(16000), atol=1e-6)


FAILURES = [
    ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size."),
    MemoryError("Unable to allocate 256. GiB"),
    OverflowError("cannot fit 'int' into an index-sized integer"),
    OSError(5, "Input/output error"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("libsndfile"),
    ZeroDivisionError("division by zero"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_whatever_soundfile_raises_the_second_reader_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    write_wav(tmp_path / "a.wav", tone(16000), 16000)
    expected, _ = read_audio(tmp_path / "a.wav")
    monkeypatch.setattr(soundfile.SoundFile, "read", raises(failure))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], expected)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", raises(failure))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], expected)
    assert audio_info(tmp_path / "a.wav") == AudioInfo(16000, 16000, 1)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_whatever_the_second_reader_raises_is_bad_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    import av

    (tmp_path / "a.wav").write_text("no audio")
    monkeypatch.setattr(av, "open", raises(failure))
    for read in (read_audio, audio_info):
        with pytest.raises(AudioError, match=r"a\.wav: cannot be decoded as audio \(soundfile: .*; PyAV: ") as caught:
            read(tmp_path / "a.wav")
        assert str(failure) in str(caught.value)


def raises(failure: Exception) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise failure

    return fail


def test_what_does_not_fit_into_the_memory_is_bad_audio(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(16000), 16000)
    with pytest.raises(AudioError, match=r"a\.wav: too long for the memory of this machine"):
        stream_audio(tmp_path / "a.wav", raises(MemoryError()))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "nothing.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    for name, reason in {
        "folder.wav": "is a folder, expected a file",
        "pipe.wav": "is a pipe, a socket or a device, expected a file",
        "dangling.wav": "no such file",
        "loop.wav": "cannot be read",
        "a.wav/b.wav": "no such file",
        "zero\0byte.wav": "cannot be read",
        300 * "a": "cannot be read",
    }.items():
        for read in (read_audio, audio_info):
            with pytest.raises(AudioError, match=reason):
                read(tmp_path / name)


def test_a_file_that_vanishes_before_it_is_opened_is_bad_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", tone(16000), 16000)
    there = check_source(tmp_path / "a.wav")
    (tmp_path / "a.wav").unlink()
    monkeypatch.setattr("wespeaker_qm.audio.io.check_source", lambda source: there)
    with pytest.raises(AudioError, match=r"a\.wav: .*No such file"):
        read_audio(tmp_path / "a.wav")


def test_channels_that_are_infinite_both_ways_are_refused(tmp_path: Path) -> None:
    """Their mean is not a number, of which numpy warns."""
    for name, left, right in (("a", np.inf, -np.inf), ("b", 3e38, 3e38), ("c", np.nan, 0.0)):
        waveform = np.tile([left, right], (100, 1))
        soundfile.write(tmp_path / f"{name}.wav", waveform, 16000, subtype="DOUBLE")
        with pytest.raises(AudioError, match="infinite or not a number"):
            read_audio(tmp_path / f"{name}.wav")


@pytest.mark.parametrize("block_samples", [1, 700, 4096])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_blocks_are_the_parts_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_samples: int
) -> None:
    """MP3 decodes to other samples after a seek, which soundfile makes after each read."""
    waveform = np.stack([tone(16000, 0.5), tone(16000, 0.5, 300.0)], axis=1)
    if name == "a.m4a":
        write_m4a(tmp_path / name, waveform[:, 0], 16000)
    else:
        soundfile.write(tmp_path / name, waveform, 16000)
    whole, _ = read_audio(tmp_path / name)
    monkeypatch.setattr("wespeaker_qm.audio.libsndfile.BLOCK_SAMPLES", block_samples)
    monkeypatch.setattr("wespeaker_qm.audio.ffmpeg.BLOCK_SAMPLES", block_samples)
    blocks = stream_audio(tmp_path / name, lambda stream: list(stream.blocks))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(read_audio(tmp_path / name, start=1001, num_samples=2000)[0], whole[1001:3001])


def test_where_a_decoder_stops_half_way_the_other_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", tone(16000), 16000)
    whole, _ = read_audio(tmp_path / "a.wav")
    monkeypatch.setattr("wespeaker_qm.audio.libsndfile.BLOCK_SAMPLES", 1000)
    read, calls = soundfile.SoundFile.read, []

    def fail_later(self: soundfile.SoundFile, *arguments: object, **options: object) -> np.ndarray:
        calls.append(0)
        if len(calls) > 5:
            raise ValueError("array is too big")
        return read(self, *arguments, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", fail_later)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], whole)
    assert len(calls) == 6


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("peak", [0.5, 3.0])
@pytest.mark.parametrize("num_samples", [1, 1000, 30_000, 10**6])
def test_the_beginning_at_a_rate_is_that_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, peak: float, num_samples: int
) -> None:
    """Also where the loudest sample, by which all are scaled, is the last."""
    waveform = 0.1 * np.random.default_rng(0).standard_normal(4 * rate)
    waveform[-1] = peak
    soundfile.write(tmp_path / "a.wav", waveform, rate, subtype="FLOAT")
    whole = read_audio_at(tmp_path / "a.wav", 16000)
    monkeypatch.setattr("wespeaker_qm.audio.libsndfile.BLOCK_SAMPLES", 500)
    np.testing.assert_array_equal(read_audio_at(tmp_path / "a.wav", 16000, num_samples), whole[:num_samples])


def test_the_beginning_of_a_damaged_recording_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(16000), 16000)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-9000])
    with pytest.raises(PartlyDecodedError):
        read_audio_at(tmp_path / "a.wav", 16000, 100)
    soundfile.write(tmp_path / "b.wav", np.append(tone(16000), np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"b\.wav: has samples that are infinite or not a number"):
        read_audio_at(tmp_path / "b.wav", 16000, 100)
    soundfile.write(tmp_path / "c.wav", tone(16000), 191_999)
    with pytest.raises(AudioError, match=r"c\.wav: sample rate 191999 Hz"):
        read_audio_at(tmp_path / "c.wav", 16000)


@pytest.mark.parametrize("suffix", ["au", "snd", "gsm", "vox", "raw"])
def test_what_has_no_header_is_not_taken_for_audio_by_its_name(tmp_path, suffix):
    """libsndfile does: a text becomes a second of noise."""
    path = tmp_path / f"x.{suffix}"
    path.write_text("No audio at all. " * 500)
    for read in (read_audio, audio_info):
        with pytest.raises(AudioError, match=rf"x\.{suffix}: "):
            read(path)


@pytest.mark.parametrize("num_bytes", range(12, 36))
def test_a_wav_that_ends_in_its_header_is_refused(tmp_path, num_bytes):
    path = tmp_path / "x.wav"
    write_wav(path, np.linspace(-0.5, 0.5, 900), 8000)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(AudioError, match=r"x\.wav: "):
        read_audio(path)


@pytest.mark.parametrize("num_channels", [9, 24, 64])
def test_many_channels_do_not_end_the_process(tmp_path, num_channels):
    """Cut, so that FFmpeg decodes it; in a process of its own, since PyAV killed it."""
    path = tmp_path / "x.au"
    header = struct.pack(">4sIIIII", b".snd", 24, 64000, 3, 8000, num_channels)
    path.write_bytes(header + np.random.default_rng(0).bytes(36 * num_channels))
    code = (
        "from wespeaker_qm.audio.io import read_audio\n"
        "from wespeaker_qm.audio.source import PartlyDecodedError\n"
        f"try:\n    read_audio({str(path)!r})\n"
        "except PartlyDecodedError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"18 of {round(32000 / num_channels)} samples can be decoded" in done.stdout


def test_channels_that_ffmpeg_decodes_are_those_that_soundfile_decodes(tmp_path):
    """To the bit, of 24 and of two channels."""
    for num_channels in (2, 24):
        samples = np.random.default_rng(1).integers(-9999, 9999, (4000, num_channels)).astype(np.int16)
        soundfile.write(tmp_path / "x.wav", samples, 8000)
        by_ffmpeg = [block.samples for block in ffmpeg_blocks(tmp_path / "x.wav", "x", RefusedError("asked for"))]
        np.testing.assert_array_equal(np.concatenate(by_ffmpeg), read_audio(tmp_path / "x.wav")[0])
