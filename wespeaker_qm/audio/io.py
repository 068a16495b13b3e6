"""Reading and writing audio: the only decoder of the project.

Everything comes in as mono float32 in [-1, 1] at the file's own sample rate, and goes out as 16-bit PCM WAV. Integer
samples are scaled by 2**15 (as in Kaldi, but divided out), so a 16-bit file survives a round trip bit for bit.

A file that says how long it is must be that long: what was cut off, or has a hole that the decoder steps over, is
refused (:class:`~wespeaker_qm.audio.source.PartlyDecodedError`). Files that were written to a pipe do not know their
length and are read to their end.
"""

import struct
from pathlib import Path

import numpy as np
import soundfile

from wespeaker_qm.audio.ffmpeg import read_ffmpeg
from wespeaker_qm.audio.libsndfile import read_soundfile, soundfile_info
from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.audio.source import AudioError, AudioInfo, RawFormat, ShortError, Source, check_source
from wespeaker_qm.utils.files import atomic_path


def read_audio(
    source: Source, *, start: int = 0, num_samples: int | None = None, raw_format: RawFormat | None = None
) -> tuple[np.ndarray, int]:
    """Read audio as mono; several channels are averaged.

    soundfile decodes WAV, FLAC, Ogg, Opus and MP3; whatever it refuses or does not decode to the end (M4A, MP4, AAC,
    ...) goes to PyAV. Samples beyond full scale (lossy decoders overshoot, float files hold anything) are scaled to a
    peak of 1, never clipped. Where rate or channels change within a file (joined recordings), all of it is brought to
    the rate that most of it has.

    Args:
        source: path, or a binary file object positioned at the start.
        start: first sample wanted. With ``num_samples`` only that part of a WAV or FLAC is decoded; lossy formats are
            decoded from their beginning, because a decoder that starts in the middle gives other samples.
        num_samples: number of samples wanted, default all; fewer come back where the file ends earlier.
        raw_format: sample rate and encoding of a headerless file, which cannot be detected.

    Returns:
        waveform (num_samples,), float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        PartlyDecodedError: the file is truncated or damaged.
        AudioError: missing, empty, unreadable or non-finite samples.
    """
    name = check_source(source)
    try:
        waveform, sample_rate = read_soundfile(source, start, num_samples, raw_format)
    except (soundfile.LibsndfileError, ShortError) as refusal:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({refusal})") from refusal
        waveform, sample_rate, _ = read_ffmpeg(source, name, refusal)
        waveform = waveform[start : None if num_samples is None else start + num_samples]
    if len(waveform) == 0:
        raise AudioError(f"{name}: no samples, expected at least one (from sample {start} on)")
    peak = float(np.abs(waveform).max())
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has samples that are infinite or not a number; write the file again")
    return (waveform / np.float32(peak) if peak > 1 else waveform), sample_rate


def read_audio_at(source: Source, sample_rate: int, *, raw_format: RawFormat | None = None) -> np.ndarray:
    """Read audio as by :func:`read_audio` and resample it: waveform (S,), float32 in [-1, 1], at ``sample_rate`` Hz."""
    waveform, original_rate = read_audio(source, raw_format=raw_format)
    return resample_audio(waveform, original_rate, sample_rate)


def audio_info(source: Source, *, raw_format: RawFormat | None = None) -> AudioInfo:
    """Length, sample rate and channels, from the header where soundfile knows the format, else by decoding.

    Of joined files, which are decoded too, the channels are those of the first.

    Raises:
        AudioError: as :func:`read_audio`, so far as the header tells.
    """
    name = check_source(source)
    try:
        return soundfile_info(source, raw_format)
    except (soundfile.LibsndfileError, ShortError) as refusal:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({refusal})") from refusal
        waveform, sample_rate, num_channels = read_ffmpeg(source, name, refusal)
        return AudioInfo(len(waveform), sample_rate, num_channels)


def write_wav(path: Path | str, waveform: np.ndarray, sample_rate: int) -> None:
    """Write mono 16-bit PCM with the canonical 44-byte header, atomically; samples outside [-1, 1] are clipped.

    Args:
        path: the WAV file; parent folders are made.
        waveform: (num_samples,) floats.
        sample_rate: in Hz.

    Raises:
        AudioError: the waveform is empty, not one-dimensional or not finite.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or len(waveform) == 0 or not np.isfinite(waveform).all():
        raise AudioError(f"{path}: waveform of shape {waveform.shape} is empty, not mono or not finite; not written")
    pcm = np.clip(np.round(waveform * 32768.0), -32768, 32767).astype("<i2").tobytes()
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + len(pcm), b"WAVE",
        b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16,
        b"data", len(pcm),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_bytes(header + pcm)
