"""Reading and writing audio: the only decoder of the project.

Everything comes in as mono float32 in [-1, 1] at the file's own sample rate, and goes out as 16-bit PCM WAV. Integer
samples are scaled by 2**15 (as in Kaldi, but divided out), so a 16-bit file survives a round trip bit for bit.
"""

import functools
import struct
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path

Source = Path | str | BinaryIO


class AudioError(RecipeError):
    """A file that cannot be used as audio; the message names the file and the reason."""


class AudioInfo(NamedTuple):
    """Facts of an audio file, before averaging channels."""

    num_samples: int
    sample_rate: int
    num_channels: int


class RawFormat(NamedTuple):
    """What a headerless mono file does not say of itself.

    Attributes:
        sample_rate: in Hz.
        encoding: ``gsm610`` (GSM 06.10 full rate, 33 bytes a frame) or ``ulaw`` (8-bit mu-law).
    """

    sample_rate: int
    encoding: Literal["gsm610", "ulaw"]


def read_audio(
    source: Source, *, start: int = 0, num_samples: int | None = None, raw_format: RawFormat | None = None
) -> tuple[np.ndarray, int]:
    """Read audio as mono; several channels are averaged.

    soundfile decodes WAV, FLAC, Ogg, Opus and MP3; whatever it refuses (M4A, MP4, AAC, ...) goes to PyAV. Samples
    beyond full scale (lossy decoders overshoot, float files hold anything) are scaled to a peak of 1, never clipped.

    Args:
        source: path, or a binary file object positioned at the start.
        start: first sample wanted. With ``num_samples`` only that part is decoded (but PyAV decodes the whole file).
        num_samples: number of samples wanted, default all; fewer come back where the file ends earlier.
        raw_format: sample rate and encoding of a headerless file, which cannot be detected.

    Returns:
        waveform (num_samples,), float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        AudioError: missing, empty, unreadable or non-finite samples.
    """
    name = _check_source(source)
    try:
        samples, sample_rate = _read_soundfile(source, start, num_samples, raw_format)
    except soundfile.LibsndfileError as error:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({error})") from error
        samples, sample_rate = _read_av(source, name, error)
        samples = samples[start : None if num_samples is None else start + num_samples]
    waveform = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
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

    Raises:
        AudioError: as :func:`read_audio`, so far as the header tells.
    """
    name = _check_source(source)
    try:
        with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
            return AudioInfo(file.frames, file.samplerate, file.channels)
    except soundfile.LibsndfileError as error:
        if raw_format is not None:
            raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({error})") from error
        samples, sample_rate = _read_av(source, name, error)
        return AudioInfo(samples.shape[0], sample_rate, samples.shape[1])


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


def resample_audio(waveform: np.ndarray, orig_sr: int, new_sr: int) -> np.ndarray:
    """Change the sample rate by polyphase filtering, offline quality: 90 dB stop band, flat to 94 % of Nyquist.

    Args:
        waveform: (S,) float32.
        orig_sr: its sample rate in Hz.
        new_sr: the wanted sample rate in Hz.

    Returns:
        (ceil(S * new_sr / orig_sr),) float32, in time with the input (no delay), clipped to [-1, 1].
    """
    if orig_sr == new_sr:
        return waveform.astype(np.float32, copy=False)
    from scipy.signal import resample_poly

    divisor = gcd(orig_sr, new_sr)
    up, down = new_sr // divisor, orig_sr // divisor
    lowpass: Any = _resampling_filter(max(up, down))  # scipy's stubs know no array here
    resampled: np.ndarray = resample_poly(waveform.astype(np.float32), up, down, window=lowpass)
    clipped: np.ndarray = np.clip(resampled, -1.0, 1.0).astype(np.float32)
    return clipped


@functools.lru_cache(maxsize=16)
def _resampling_filter(max_rate: int) -> np.ndarray:
    """Kaiser-windowed sinc at the common rate; the cut-off (-6 dB) is 97 % of the lower Nyquist frequency."""
    from scipy.signal import firwin

    half_length = 96 * max_rate
    return firwin(2 * half_length + 1, 0.97 / max_rate, window=("kaiser", 9.0)).astype(np.float32)


def _check_source(source: Source) -> str:
    """The source's name for messages; raises for a missing or empty file, whose decoder messages puzzle users."""
    if not isinstance(source, Path | str):
        return str(getattr(source, "name", "audio in memory"))
    path = Path(source)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    return str(path)


def _raw_arguments(raw_format: RawFormat | None) -> dict[str, Any]:
    if raw_format is None:
        return {}
    return {
        "samplerate": raw_format.sample_rate,
        "channels": 1,
        "format": "RAW",
        "subtype": raw_format.encoding.upper(),
    }


def _read_soundfile(
    source: Source, start: int, num_samples: int | None, raw_format: RawFormat | None
) -> tuple[np.ndarray, int]:
    """Samples (S, channels) float32 and the sample rate."""
    with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
        if not file.seekable():  # headerless GSM
            samples = file.read(file.frames, dtype="float32", always_2d=True)
            return samples[start : None if num_samples is None else start + num_samples], file.samplerate
        file.seek(min(start, file.frames))
        samples = file.read(-1 if num_samples is None else num_samples, dtype="float32", always_2d=True)
        return samples, file.samplerate


def _read_av(source: Source, name: str, refusal: Exception) -> tuple[np.ndarray, int]:
    """Samples (S, channels) float32 and the sample rate of the first audio stream, decoded by FFmpeg through PyAV."""
    import av

    if not isinstance(source, Path | str):
        source.seek(0)
    try:
        file = str(source) if isinstance(source, Path) else source
        with av.open(file, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{name}: holds no audio stream")
            stream = container.streams.audio[0]
            planar_float = av.AudioResampler(format="fltp")
            blocks = [
                converted.to_ndarray()
                for frame in [*container.decode(stream), None]  # None flushes the converter
                for converted in planar_float.resample(frame)
            ]
            sample_rate = stream.sample_rate
    except av.FFmpegError as error:
        raise AudioError(f"{name}: cannot be decoded as audio (soundfile: {refusal}; PyAV: {error})") from error
    if not blocks:
        raise AudioError(f"{name}: no samples, expected at least one")
    return np.concatenate(blocks, axis=1).T, sample_rate
