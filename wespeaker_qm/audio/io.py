"""Reading and writing audio: the only decoder of the project.

Everything comes in as mono float32 in [-1, 1] at the file's own sample rate, and goes out as 16-bit PCM WAV. Integer
samples are scaled by 2**15 (as in Kaldi, but divided out), so a 16-bit file survives a round trip bit for bit.

A file that says how long it is must be that long: what was cut off, or has a hole that the decoder steps over, is
refused (:class:`~wespeaker_qm.audio.source.PartlyDecodedError`), and so is a file without compression in which more
follows; a FLAC or MP3 that counts too few samples is read to its end. Files that were written to a pipe do not know
their length and are read to their end. So is an Ogg whose last page is not marked as that: many a program leaves the
mark out (550 of 17,335 files in the packages of egs/mini have none), and where one is cut between two pages, nothing
else in it would tell.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from wespeaker_qm.audio.chains import at_one_rate, refuse_more
from wespeaker_qm.audio.ffmpeg import ffmpeg_blocks
from wespeaker_qm.audio.libsndfile import soundfile_blocks, soundfile_info
from wespeaker_qm.audio.resample import needed_samples, resample_audio
from wespeaker_qm.audio.source import (
    HIGHEST_LEVEL,
    AudioError,
    AudioInfo,
    AudioStream,
    Block,
    RawFormat,
    RefusedError,
    Source,
    check_format,
    check_source,
    part_of,
)
from wespeaker_qm.utils.files import atomic_path

Result = TypeVar("Result")


def stream_audio(
    source: Source,
    take: Callable[[AudioStream], Result],
    *,
    start: int = 0,
    num_samples: int | None = None,
    raw_format: RawFormat | None = None,
) -> Result:
    """What ``take`` makes of a recording that it gets in blocks, so that a long one needs no more memory than a short.

    soundfile decodes WAV, FLAC, Ogg, Opus and MP3; whatever it refuses or does not decode to the end (M4A, MP4, AAC,
    ...) goes to PyAV, and ``take`` is called again, from the beginning. Where the rate changes within a file (joined
    recordings), all of it is brought to the rate that most of it has, in one block.

    Args:
        source: path, or a binary file object positioned at the start.
        take: must use up the blocks: their end may be that something is missing.
        start: first sample wanted. With ``num_samples`` only that part of a WAV or FLAC is decoded; lossy formats are
            decoded from their beginning, because a decoder that starts in the middle gives other samples.
        num_samples: number of samples wanted, default all; fewer come where the file ends earlier.
        raw_format: sample rate and encoding of a headerless file, which cannot be detected.

    Raises:
        PartlyDecodedError: the file is truncated or damaged.
        AudioError: missing, empty, unreadable, without samples, of an impossible sample rate or number of channels, or
            too long for the memory; whatever a decoder raises ends as this.
    """
    name = check_source(source)
    if num_samples is None and raw_format is None:
        refuse_more(source, name)
    try:
        try:
            by_soundfile = partial(soundfile_blocks, source, raw_format=raw_format)
            return _decoded(source, name, by_soundfile, take, start, num_samples)
        except RefusedError as refusal:
            if raw_format is not None:
                raise AudioError(f"{name}: cannot be read as headerless {raw_format.encoding} ({refusal})") from refusal
            by_ffmpeg = partial(_part_by_ffmpeg, source, name, refusal)
            return _decoded(source, name, by_ffmpeg, take, start, num_samples)
    except MemoryError as error:
        raise AudioError(f"{name}: too long for the memory of this machine; cut it into parts") from error


@contextlib.contextmanager
def _named(source: Source) -> Iterator[None]:
    """Errors of resampling get the name of the file."""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{check_source(source)}: {error}") from error


class _RateChangeError(Exception):
    """The sample rate changes within a recording."""


def _decoded(
    source: Source,
    name: str,
    decode: Callable[[int, int | None], Iterator[Block]],
    take: Callable[[AudioStream], Result],
    start: int,
    num_samples: int | None,
) -> Result:
    """What ``take`` makes of the part that a decoder gives; of several rates all is brought to one before, at once."""
    try:
        return _deliver(name, decode(start, num_samples), take, start)
    except _RateChangeError:
        if not isinstance(source, Path | str):
            source.seek(0)
        blocks = list(decode(0, None))
        with _named(source):
            waveform, sample_rate = at_one_rate([(block.sample_rate, block.samples) for block in blocks])
        joined = Block(sample_rate, blocks[0].num_channels, waveform)
        return _deliver(name, part_of(iter([joined]), start, num_samples), take, start)


def _part_by_ffmpeg(
    source: Source, name: str, refusal: RefusedError, start: int, num_samples: int | None
) -> Iterator[Block]:
    return part_of(ffmpeg_blocks(source, name, refusal), start, num_samples)


def _deliver(name: str, blocks: Iterator[Block], take: Callable[[AudioStream], Result], start: int) -> Result:
    with contextlib.closing(blocks):  # type: ignore[type-var]
        first = next((block for block in blocks if len(block.samples)), None)
        if first is None:
            raise AudioError(f"{name}: no samples, expected at least one (from sample {start} on)")
        check_format(name, first.sample_rate, first.num_channels)
        return take(AudioStream(first.sample_rate, first.num_channels, _samples(first, blocks)))


def _samples(first: Block, rest: Iterator[Block]) -> Iterator[np.ndarray]:
    """The samples of blocks of one rate; none is empty.

    Raises:
        _RateChangeError: they have several.
    """
    yield first.samples
    for block in rest:
        if block.sample_rate != first.sample_rate:
            raise _RateChangeError
        if len(block.samples):
            yield block.samples


def read_audio(
    source: Source, *, start: int = 0, num_samples: int | None = None, raw_format: RawFormat | None = None
) -> tuple[np.ndarray, int]:
    """Read audio as mono, by :func:`stream_audio`; several channels are averaged.

    Samples beyond full scale (lossy decoders overshoot, float files hold anything) are scaled to a peak of 1, never
    clipped.

    Args:
        source: path, or a binary file object positioned at the start.
        start: first sample wanted.
        num_samples: number of samples wanted, default all; fewer come back where the file ends earlier.
        raw_format: sample rate and encoding of a headerless file, which cannot be detected.

    Returns:
        waveform (num_samples,), float32 in [-1, 1], and the sample rate in Hz.

    Raises:
        PartlyDecodedError: the file is truncated or damaged.
        AudioError: as :func:`stream_audio`, or non-finite samples.
    """
    waveform, sample_rate, peak = stream_audio(
        source, _beginning, start=start, num_samples=num_samples, raw_format=raw_format
    )
    return _within_full_scale(source, waveform, peak), sample_rate


def _beginning(
    stream: AudioStream, num_wanted: Callable[[int], int | None] = lambda sample_rate: None
) -> tuple[np.ndarray, int, float]:
    """The first samples, at least as many as are wanted at the stream's rate; that rate; the peak of all samples."""
    most = num_wanted(stream.sample_rate)
    kept: list[np.ndarray] = []
    num_kept, peak = 0, 0.0
    with np.errstate(invalid="ignore"):
        for block in stream.blocks:
            peak = float(np.maximum(peak, np.abs(block).max()))  # unlike max(), it keeps what is not a number
            if most is None or num_kept < most:
                kept.append(block)
                num_kept += len(block)
    return (kept[0] if len(kept) == 1 else np.concatenate(kept)), stream.sample_rate, peak


def _within_full_scale(source: Source, waveform: np.ndarray, peak: float) -> np.ndarray:
    check_level(check_source(source), peak)
    return waveform / np.float32(peak) if peak > 1 else waveform


def check_level(name: str, peak: float) -> None:
    """Refuse a recording whose largest magnitude is no number, or no level: scaled to it, a voice would be silent.

    Raises:
        AudioError: so it is.
    """
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has samples that are infinite or not a number; write the file again")
    if peak > HIGHEST_LEVEL:
        raise AudioError(
            f"{name}: has samples of {peak:.3g}, expected at most 1, or {HIGHEST_LEVEL:.3g} where they are integers: "
            "damaged, or no floats at all; write the file again"
        )


def read_audio_at(source: Source, sample_rate: int, num_samples: int | None = None) -> np.ndarray:
    """Read audio as by :func:`read_audio` and resample it.

    Args:
        source: as there.
        sample_rate: of the result, in Hz.
        num_samples: number of samples wanted from the beginning, at that rate; all is decoded, and so much is kept.

    Returns:
        waveform (S,), float32 in [-1, 1]; S is ``num_samples`` or, where the recording is shorter, its length.

    Raises:
        AudioError: as there, or as :func:`wespeaker_qm.audio.resample.check_ratio`, with the file's name.
    """

    def num_wanted(original_rate: int) -> int | None:
        return None if num_samples is None else needed_samples(num_samples, original_rate, sample_rate)

    waveform, original_rate, peak = stream_audio(source, partial(_beginning, num_wanted=num_wanted))
    with _named(source):
        return resample_audio(_within_full_scale(source, waveform, peak), original_rate, sample_rate)[:num_samples]


def audio_info(source: Source, *, raw_format: RawFormat | None = None) -> AudioInfo:
    """Length, sample rate and channels, from the header where soundfile knows the format, else by decoding.

    Of joined files, which are decoded too, the channels are those of the first.

    Raises:
        AudioError: as :func:`read_audio`, so far as the header tells.
    """
    name = check_source(source)
    if raw_format is None:
        refuse_more(source, name)
    try:
        info = soundfile_info(source, raw_format)
    except RefusedError:
        if not isinstance(source, Path | str):
            source.seek(0)
        return stream_audio(source, _count, raw_format=raw_format)
    check_format(name, info.sample_rate, info.num_channels)
    return info


def _count(stream: AudioStream) -> AudioInfo:
    return AudioInfo(sum(map(len, stream.blocks)), stream.sample_rate, stream.num_channels)


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
