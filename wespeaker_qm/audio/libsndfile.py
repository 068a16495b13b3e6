"""Decoding by libsndfile: WAV, FLAC, Ogg, Opus and MP3, with a check that nothing is missing."""

import io
import re
from typing import Any

import numpy as np
import soundfile

from wespeaker_qm.audio.chains import at_one_rate, mp3_starts, ogg_starts
from wespeaker_qm.audio.source import (
    SLACK_S,
    UNKNOWN_BYTES,
    AudioInfo,
    RawFormat,
    ShortError,
    Source,
    check_source,
    content_of,
    mono,
)

# What libsndfile logs of files whose data end before their header says so, of blocks, and of RF64, AIFF and CAF.
_BYTES_LOGGED = re.compile(r"^ *(?:data|Data Size|SSND|BODY|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_BLOCKS_LOGGED = re.compile(r"Block Align +: ([1-9]\d*)$.*Samples/Block +: (\d+)$", re.MULTILINE | re.DOTALL)
_FRAMES_LOGGED = re.compile(
    r"value from 'ds64' chunk of (?P<ds64>\d+)|read from 'COMM' chunk \((?P<comm>\d+)\)|Valid frames +: (?P<pakt>\d+)"
)
UNKNOWN_FRAMES = 2**63 - 1
"""What libsndfile gives as the length of a FLAC that does not know its own."""
_LOSSY_FORMATS = ("OGG", "MP3")
_NIST_LENGTH = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)


def read_soundfile(
    source: Source, start: int, num_samples: int | None, raw_format: RawFormat | None
) -> tuple[np.ndarray, int]:
    """Mono samples (S,) float32 and the sample rate.

    Args:
        source: path, or a binary file object.
        start: first sample wanted; a lossy format is decoded from its beginning all the same.
        num_samples: number of samples wanted; None is all.
        raw_format: of a headerless file.

    Raises:
        soundfile.LibsndfileError: not decoded at all.
        ShortError: not all of it.
    """
    with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
        _check_declared(file)
        stop = file.frames if num_samples is None else min(start + num_samples, file.frames)
        seeks_exactly = file.seekable() and file.format not in _LOSSY_FORMATS
        first = min(start, stop) if seeks_exactly else 0
        if first:
            file.seek(first)
        try:
            samples = file.read(stop - first, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ShortError(error.error_string, file.frames / file.samplerate) from error
        waveform = mono(samples)
        _check_length(first + len(waveform), stop, file.frames, file.samplerate)
        waveform = waveform[min(start, stop) - first :]
        sample_rate, num_frames, file_format = file.samplerate, file.frames, file.format
    if file_format == "NIST":
        length = _NIST_LENGTH.search(content_of(source)[:1024])
        declared = int(length[1]) if length else 0
        _check_length(num_frames, declared, declared, sample_rate)
    links = _links(source, file_format)
    if len(links) > 1:
        waveform, sample_rate = _read_links(links)
        waveform = waveform[start : None if num_samples is None else start + num_samples]
    return waveform, sample_rate


def soundfile_info(source: Source, raw_format: RawFormat | None) -> AudioInfo:
    """Length, sample rate and channels from the header; joined files are decoded, and the channels are the first's.

    Raises:
        soundfile.LibsndfileError: of no known format.
        ShortError: not all of it is there, so far as the header tells.
    """
    with soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
        _check_declared(file)
        info, file_format = AudioInfo(file.frames, file.samplerate, file.channels), file.format
    links = _links(source, file_format)
    if len(links) > 1:
        waveform, sample_rate = _read_links(links)
        info = info._replace(num_samples=len(waveform), sample_rate=sample_rate)
    return info


def _check_declared(file: soundfile.SoundFile) -> None:
    """Compare the length of a file's data with what its header says, where libsndfile cuts the one to the other.

    Raises:
        ShortError: the data are shorter, or the header says no length and soundfile cannot read without.
    """
    if file.frames in (0, UNKNOWN_FRAMES):
        raise ShortError("no length in its header")
    log = file.extra_info
    frames, size, blocks = (pattern.search(log) for pattern in (_FRAMES_LOGGED, _BYTES_LOGGED, _BLOCKS_LOGGED))
    declared = 0
    if frames is not None:
        declared = int(frames[frames.lastindex or 0])
    # AIFF counts packets of ADPCM as frames.
    if size is not None and int(size[1]) < UNKNOWN_BYTES and (frames is None or frames["comm"]):
        declared = max(declared, round(file.frames * int(size[1]) / max(int(size[2]), 1)))
        if blocks is not None:  # a block that was cut counts for nothing there
            declared = max(declared, int(size[1]) // int(blocks[1]) * int(blocks[2]))
    _check_length(file.frames, declared, declared, file.samplerate)


def _check_length(found: int, expected: int, declared: int, sample_rate: int) -> None:
    """Raise where less was found than expected, of a file that has ``declared`` samples by its own account.

    Raises:
        ShortError: so it is.
    """
    if expected - found > SLACK_S * sample_rate:
        raise ShortError(f"{found} of {declared} samples", declared / sample_rate)


def _links(source: Source, file_format: str) -> list[bytes]:
    """The recordings that follow each other in a file, of which libsndfile reads the first; empty for most formats.

    Raises:
        PartlyDecodedError: as :func:`ogg_starts`.
    """
    if file_format not in _LOSSY_FORMATS:
        return []
    content = content_of(source)
    starts = ogg_starts(content, check_source(source)) if file_format == "OGG" else mp3_starts(content)
    return [content[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]


def _read_links(links: list[bytes]) -> tuple[np.ndarray, int]:
    """Mono samples (S,) of recordings that follow each other, joined, and the sample rate.

    Digital silence at the end is left out, because it is padding (klettres-data has two seconds of it, in stereo).

    Raises:
        ShortError: one of them is not all there.
    """
    try:
        parts = [read_soundfile(io.BytesIO(link), 0, None, None)[::-1] for link in links]
    except ShortError as error:
        raise ShortError(str(error), sum(soundfile.info(io.BytesIO(link)).duration for link in links)) from error
    while len(parts) > 1 and not parts[-1][1].any():
        parts.pop()
    return at_one_rate(parts)


def _raw_arguments(raw_format: RawFormat | None) -> dict[str, Any]:
    if raw_format is None:
        return {}
    return {
        "samplerate": raw_format.sample_rate,
        "channels": 1,
        "format": "RAW",
        "subtype": raw_format.encoding.upper(),
    }
