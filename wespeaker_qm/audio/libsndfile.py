"""Decoding by libsndfile: WAV, FLAC, Ogg, Opus and MP3, in blocks, with a check that nothing is missing."""

import contextlib
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wespeaker_qm.audio.chains import MP3_START, flac_starts, mp3_starts, ogg_starts
from wespeaker_qm.audio.ffmpeg import longest_s
from wespeaker_qm.audio.source import (
    BLOCK_SAMPLES,
    SLACK_S,
    UNKNOWN_BYTES,
    AudioInfo,
    Block,
    Mixer,
    OppositePhaseError,
    PartlyDecodedError,
    RawFormat,
    RefusedError,
    Source,
    check_source,
    content_of,
    part_of,
    size_of,
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
# No codec says less: FLAC takes 14 bytes for 65,535 samples of silence, Opus 2 for 5,760.
_MOST_SAMPLES_A_BYTE = 2**13
_HIGHEST_RATE_OF_SHORT_FRAMES = 24000
"""In Hz, of MP3 with frames of 576 samples; above it they have 1152."""
_NIST_LENGTH = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]  # it has no annotations
    """Reads on from where it stopped; soundfile moves there after each read, and MP3 then gives other samples."""

    def seekable(self) -> bool:
        """Said to be false, so that nothing moves."""
        return False

    @property
    def seeks_exactly(self) -> bool:
        """Whether decoding may begin in the middle."""
        return super().seekable() and self.format not in _LOSSY_FORMATS


@contextlib.contextmanager
def _refusals(duration_s: float | None = None) -> Iterator[None]:
    """Whatever a decoder raises (libsndfile's errors, numpy's, the system's) is its refusal of a file."""
    try:
        yield
    except (RefusedError, PartlyDecodedError, OppositePhaseError):
        raise
    except soundfile.LibsndfileError as error:
        raise RefusedError(error.error_string, duration_s) from error
    except Exception as error:
        raise RefusedError(f"{type(error).__name__}: {error}", duration_s) from error


def soundfile_blocks(
    source: Source, start: int, num_samples: int | None, raw_format: RawFormat | None
) -> Iterator[Block]:
    """Mono samples, a block at a time, so that the length of a recording, or what its header says, takes no memory.

    Args:
        source: path, or a binary file object.
        start: first sample wanted; a lossy format is decoded from its beginning all the same.
        num_samples: number of samples wanted; None is all.
        raw_format: of a headerless file.

    Raises:
        RefusedError: not decoded, or not all of it.
        PartlyDecodedError: a page of Ogg is damaged.
    """
    with _refusals():
        num_bytes = size_of(source)
        file = _Sequential(source, **_raw_arguments(raw_format))
        _refuse_guess(file, raw_format)
    with file:
        with _refusals():
            _check_declared(file, num_bytes)
            is_part = num_samples is not None and start + num_samples <= file.frames
            links = [] if is_part and file.format not in _LOSSY_FORMATS else _links(source, file)
            if not links:
                _check_mpeg(source, file)
        if links:
            yield from part_of(_read_links(source, links), start, num_samples)
            return
        declared_s = file.frames / file.samplerate
        with _refusals(declared_s):
            _check_nist(source, file)
            stop = file.frames if num_samples is None else min(start + num_samples, file.frames)
            at = min(start, stop) if file.seeks_exactly else 0
            if at:
                file.seek(at)
        mixer = Mixer()
        frames_at_a_time = max(BLOCK_SAMPLES // file.channels, 1)
        while at < stop:
            with _refusals(declared_s):
                samples = file.read(min(frames_at_a_time, stop - at), "float32", always_2d=True)
                if len(samples) == 0:
                    break
                waveform = mixer.mono(samples)[max(start - at, 0) :]
            at += len(samples)
            yield Block(file.samplerate, file.channels, waveform)
        _check_length(at, stop, file.frames, file.samplerate)
        mixer.check(check_source(source))


def soundfile_info(source: Source, raw_format: RawFormat | None) -> AudioInfo:
    """Length, sample rate and channels from the header.

    Raises:
        RefusedError: of no known format, joined files, or not all of it is there, so far as the header tells.
        PartlyDecodedError: a page of Ogg is damaged.
    """
    with _refusals():
        num_bytes = size_of(source)
    with _refusals(), soundfile.SoundFile(source, **_raw_arguments(raw_format)) as file:
        _refuse_guess(file, raw_format)
        _check_declared(file, num_bytes)
        info = AudioInfo(file.frames, file.samplerate, file.channels)
        if _links(source, file):
            raise RefusedError("several recordings, which must be decoded")
        _check_mpeg(source, file)
    return info


def _check_declared(file: soundfile.SoundFile, num_bytes: int) -> None:
    """Compare the length of a file's data with what its header says, where libsndfile cuts the one to the other.

    Raises:
        RefusedError: the data are shorter, or the header says no length and soundfile cannot read without.
    """
    if file.frames in (0, UNKNOWN_FRAMES):
        raise RefusedError("no length in its header")
    if file.frames > _MOST_SAMPLES_A_BYTE * num_bytes:
        raise RefusedError(f"{file.frames} samples cannot be in {num_bytes} bytes", file.frames / file.samplerate)
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


def _check_mpeg(source: Source, file: soundfile.SoundFile) -> None:
    """Compare the length that libsndfile takes an MP3 to have with its packets, since it reads no further.

    One that was written to a pipe has no count of its frames, and libsndfile guesses from the size of the first.

    Raises:
        RefusedError: there is more.
    """
    if not file.subtype.startswith("MPEG"):
        return
    content = content_of(source)
    found_s = longest_s(io.BytesIO(content))
    # An encoder that counts frames also says what it added at both ends, which libsndfile leaves out.
    frames = 4 if MP3_START.search(content) else 1
    slack = frames * (1152 if file.samplerate > _HIGHEST_RATE_OF_SHORT_FRAMES else 576)
    if found_s is not None and found_s * file.samplerate - file.frames > slack:
        raise RefusedError(f"{file.frames} samples by its header, but {found_s:.2f} s of packets")


def _check_length(found: int, expected: int, declared: int, sample_rate: int) -> None:
    """Raise where less was found than expected, of a file that has ``declared`` samples by its own account.

    Raises:
        RefusedError: so it is.
    """
    if expected - found > SLACK_S * sample_rate:
        raise RefusedError(f"{found} of {declared} samples", declared / sample_rate)


def _check_nist(source: Source, file: soundfile.SoundFile) -> None:
    """Compare the length of a NIST SPHERE file, of which libsndfile logs nothing.

    Raises:
        RefusedError: the data are shorter than its header says.
    """
    if file.format == "NIST":
        length = _NIST_LENGTH.search(content_of(source)[:1024])
        declared = int(length[1]) if length else 0
        _check_length(file.frames, declared, declared, file.samplerate)


def _links(source: Source, file: soundfile.SoundFile) -> list[int]:
    """Where recordings begin that follow each other in a file, of which libsndfile reads the first; empty where it is
    alone.

    Raises:
        RefusedError: a FLAC has more than its header counts, and no other begins in it.
        PartlyDecodedError: as :func:`ogg_starts`.
    """
    if file.format == "FLAC":
        found_s = longest_s(source if isinstance(source, Path | str) else io.BytesIO(content_of(source)))
        if found_s is None or found_s - file.frames / file.samplerate <= SLACK_S:
            return []
        starts = flac_starts(content_of(source))
        if len(starts) == 1:
            raise RefusedError(f"{file.frames} samples by its header, but {found_s:.2f} s of packets")
        return starts
    if file.format not in _LOSSY_FORMATS:
        return []
    content = content_of(source)
    starts = ogg_starts(content, check_source(source)) if file.format == "OGG" else mp3_starts(content)
    return starts if len(starts) > 1 else []


def _read_links(source: Source, starts: list[int]) -> Iterator[Block]:
    """Mono samples of recordings that follow each other.

    Those at the end that are digital silence are left out: they are padding (klettres-data has two seconds of it, in
    stereo). So a silence is held back, as its length, until something else follows.

    Raises:
        RefusedError: one of them is not all there.
    """
    content = content_of(source)
    silence: list[Block] = []
    decoded_s = 0.0
    for number, (start, stop) in enumerate(pairwise([*starts, len(content)])):
        link = io.BytesIO(content[start:stop])
        link.name = check_source(source)
        is_silent, is_empty = number > 0, True
        try:
            for block in soundfile_blocks(link, 0, None, None):
                is_empty = False
                decoded_s += len(block.samples) / block.sample_rate
                is_silent = is_silent and not block.samples.any()
                if is_silent:
                    silence.append(block._replace(samples=np.broadcast_to(np.float32(0), len(block.samples))))
                else:
                    yield from silence
                    silence.clear()
                    yield block
        except RefusedError as error:
            raise RefusedError(str(error), decoded_s + (error.duration_s or 0.0)) from error
        if is_empty:
            raise RefusedError("no samples in one of several recordings")


def _refuse_guess(file: soundfile.SoundFile, raw_format: RawFormat | None) -> None:
    """Refuse a file without a header of which libsndfile takes the encoding from its name, be it a text.

    Raises:
        RefusedError: so it is.
    """
    if raw_format is None and file.format == "RAW":
        raise RefusedError("no header of any format of audio")


def _raw_arguments(raw_format: RawFormat | None) -> dict[str, Any]:
    if raw_format is None:
        return {}
    return {
        "samplerate": raw_format.sample_rate,
        "channels": 1,
        "format": "RAW",
        "subtype": raw_format.encoding.upper(),
    }
