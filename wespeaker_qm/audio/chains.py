"""Recordings that follow each other in one file (Ogg, MP3, FLAC): where each begins, and joining them at one rate."""

import os
import re
import struct
import zlib
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wespeaker_qm.audio.resample import resample_audio
from wespeaker_qm.audio.source import UNKNOWN_BYTES, AudioError, PartlyDecodedError, Source

# The first frame of an MP3 whose encoder wrote its length: header, side information of one of three sizes, tag, flags.
MP3_START = re.compile(rb"\xff[\xe2-\xff]..(?:\0{32}|\0{17}|\0{9})(?:Xing|Info)\0\0\0[\x01-\x0f]", re.DOTALL)
_REFLECTED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\0\0\x22")
"""A FLAC and its first block, of 34 bytes, which may be its last before the audio."""
_CHUNK = re.compile(rb"[ -~]{4}")
"""Names of the chunks of a WAV."""
_ONE_AFTER_OTHER = (
    rb"\.snd\0\0",  # AU, its header shorter than 65,536 bytes
    rb"FORM....AIF[FC]",
    rb"caff\x00\x01\x00\x00",
    rb"RF64....WAVEds64",
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb",  # W64
    rb"NIST_1A\n",
    rb"Creative Voice File\x1a",
)
"""How files begin of which decoders read the first alone, or take the header of the second for samples of the first."""
_SEARCHED_BYTES, _LONGEST_BEGINNING = 2**20, 32
_OGG_HEADER_BYTES = 27
_MOST_PADDING_BYTES = 2**24
"""Zeros that fill up a block of a disk or a tape; more of them is not looked through."""


def mp3_starts(content: bytes) -> list[int]:
    """Where the MP3s begin that say how long they are; what stands before the first belongs to it."""
    return [0, *[match.start() for match in MP3_START.finditer(content)][1:]]


def flac_starts(content: bytes) -> list[int]:
    """Where the FLACs begin that follow each other."""
    return [match.start() for match in _FLAC_START.finditer(content)] or [0]


def refuse_more(source: Source, name: str) -> None:
    """Refuse a file without compression that goes on behind its recording, of which decoders say nothing.

    A recorder was killed, or files were joined as if they were texts. In a WAV, what is no chunk of one counts from
    half a second of audio on, where it is not zeros that fill up a block; in AU, AIFF, CAF, RF64, W64, NIST SPHERE and
    VOC, that another file of the kind begins.

    Args:
        source: path, or a binary file object, which is at its beginning afterwards.
        name: for messages.

    Raises:
        PartlyDecodedError: so it does.
        AudioError: it cannot be opened.
    """
    if not isinstance(source, Path | str):
        _refuse_more(source, name)
        source.seek(0)
        return
    try:
        with Path(source).open("rb") as handle:
            _refuse_more(handle, name)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from error


def _refuse_more(handle: BinaryIO, name: str) -> None:
    start = handle.read(_LONGEST_BEGINNING)
    for kind in _ONE_AFTER_OTHER:
        if re.match(kind, start, re.DOTALL):
            _refuse_second(handle, re.compile(kind, re.DOTALL), name)
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return
    end, at, bytes_per_s, data = handle.seek(0, os.SEEK_END), 12, 0, 0
    while at + 8 <= end:
        handle.seek(at)
        kind, size = struct.unpack("<4sI", handle.read(8))
        if data and (kind == b"RIFF" or not _CHUNK.fullmatch(kind) or at + 8 + size > end):
            rest = end - at
            if 2 * rest >= bytes_per_s > 0 and (rest > _MOST_PADDING_BYTES or handle.read().strip(b"\0")):
                raise PartlyDecodedError(
                    f"{name}: its header counts {data / bytes_per_s:.2f} s of audio, but {rest:,} bytes follow that "
                    "are no part of it: another recording, or the header is wrong; write it again"
                )
            return
        if kind == b"data":
            data = size
            if not 0 < data < UNKNOWN_BYTES:
                return
        elif kind == b"fmt " and size >= 16 and at + 20 <= end:
            (bytes_per_s,) = struct.unpack("<8xI", handle.read(12))
        at += 8 + size + size % 2


def _refuse_second(handle: BinaryIO, beginning: re.Pattern[bytes], name: str) -> None:
    """Refuse a file in which another of its kind begins; read in pieces, since it may be longer than the memory."""
    at, rest = 0, b""
    handle.seek(1)
    while piece := handle.read(_SEARCHED_BYTES):
        searched = rest + piece
        if (match := beginning.search(searched)) is not None:
            raise PartlyDecodedError(
                f"{name}: another recording begins in it, {1 + at - len(rest) + match.start():,} bytes from its "
                "beginning; decoders read the first alone: write each into a file of its own"
            )
        at, rest = at + len(piece), searched[-_LONGEST_BEGINNING:]


def ogg_starts(content: bytes, name: str) -> list[int]:
    """Where the streams begin that follow each other in an Ogg file.

    Raises:
        PartlyDecodedError: a page is damaged, which decoders pass over, or cut off.
    """
    starts = [0]
    at, is_in_headers = content.find(b"OggS\0"), True
    while at >= 0:
        following = content.find(b"OggS\0", at + _OGG_HEADER_BYTES)
        header = content[at : at + _OGG_HEADER_BYTES]
        lengths = content[at + _OGG_HEADER_BYTES : at + _OGG_HEADER_BYTES + header[-1]]
        end = at + _OGG_HEADER_BYTES + header[-1] + sum(lengths)
        is_cut = len(header) < _OGG_HEADER_BYTES or end > (len(content) if following < 0 else following)
        if is_cut or _ogg_crc(header[:22] + bytes(4) + content[at + 26 : end]) != int.from_bytes(
            header[22:26], "little"
        ):
            raise PartlyDecodedError(f"{name}: the page of Ogg at byte {at} is damaged or cut off")
        is_first_page = bool(header[5] & 2)
        if is_first_page and not is_in_headers:
            starts.append(at)
        at, is_in_headers = following, is_first_page
    return starts


def _ogg_crc(page: bytes) -> int:
    """The CRC-32 of Ogg: the polynomial of zip's, but from the highest bit on, and without inversions."""
    reflected = zlib.crc32(page.translate(_REFLECTED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def at_one_rate(parts: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, int]:
    """Join parts, each of a sample rate, at the rate that most of the time has."""
    seconds: defaultdict[int, float] = defaultdict(float)
    for rate, part in parts:
        seconds[rate] += len(part) / rate
    sample_rate = max(seconds, key=seconds.__getitem__)
    joined = [
        resample_audio(np.concatenate([part for _, part in group]), rate, sample_rate)
        for rate, group in groupby(parts, key=lambda part: part[0])
    ]
    return np.concatenate(joined), sample_rate
