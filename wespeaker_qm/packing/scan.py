"""What a tar of packed audio holds, found by reading it once: for tars that come without lists.

WeSpeaker's ``tools/make_shard_list.py`` writes plain tars of members ``<key>.spk`` and ``<key>.<suffix>``, the audio
file as it was found: any codec, any sample rate, any number of channels. Files that a chunk can be cut from without
decoding all of them (16-bit mono WAV, 16-bit mono FLAC) are told from those of which it cannot.
"""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import soundfile

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.audio.libsndfile import soundfile_info
from wespeaker_qm.audio.source import AudioError, RefusedError, check_format
from wespeaker_qm.utils.errors import RecipeError, found_at, printable, shown
from wespeaker_qm.utils.text import BYTE_ORDER_MARK, is_field

AUDIO_SUFFIXES = ("wav", "flac", "mp3", "m4a", "ogg", "opus", "wma")

_PCM_FORMAT = 1
_EXTENSIBLE_FORMAT = 0xFFFE
_PCM_SUBFORMAT = bytes.fromhex("0100000000001000800000aa00389b71")


class Coding(IntEnum):
    """How the samples of a recording are had from the bytes of its audio file."""

    PCM = 0
    """They lie there, 16-bit and mono, behind a header: a chunk is read by itself."""
    FLAC = 1
    """Mono; decoded from the frame in which the chunk begins."""
    WHOLE = 2
    """Whatever else :func:`wespeaker_qm.audio.io.read_audio` decodes: all of it, for every chunk."""


class IndexRow(NamedTuple):
    """One recording; ``offset`` and ``num_bytes`` are those of the audio file inside its tar.

    ``header_bytes`` lie before the samples of ``Coding.PCM``, and ``crc32`` is the CRC-32 of the whole file.
    """

    key: str
    speaker: str
    coding: Coding
    offset: int
    num_bytes: int
    header_bytes: int
    sample_rate: int
    num_samples: int
    crc32: int


class AudioFacts(NamedTuple):
    """How the samples of an audio file are had from its bytes; ``header_bytes`` is 0 but for ``Coding.PCM``."""

    coding: Coding
    header_bytes: int
    sample_rate: int
    num_samples: int


def scan_tar(tar: Path) -> Iterator[IndexRow]:
    """Yield a row for each recording of an uncompressed tar, in its order.

    Raises:
        RecipeError: no such tar or not complete, audio without a speaker or the other way round, or audio that cannot
            be read.
    """
    speakers: dict[str, str] = {}
    audio: dict[str, tuple[AudioFacts, tarfile.TarInfo, int]] = {}
    if not tar.is_file():
        raise RecipeError(f"{tar}: {found_at(tar)} (current directory {Path.cwd()}); start from where it was packed")
    try:
        with tarfile.open(tar, "r:") as contents:
            for member in contents:
                key, _, suffix = member.name.rpartition(".")
                if not member.isreg() or suffix not in ("spk", *AUDIO_SUFFIXES):
                    continue
                if member.issparse() or printable(key) != key or {"\n", "\t"} & set(key):
                    raise RecipeError(
                        f"{tar}: found {shown(member.name)}{' (sparse)' if member.issparse() else ''}, expected whole "
                        "files under names without control characters; make the tar again"
                    )
                content = _content(contents, member)
                if key in (speakers if suffix == "spk" else audio):
                    raise RecipeError(f"{tar}: {key} has two members {suffix}; make the tar again")
                if suffix == "spk":
                    speakers[key] = _speaker(tar, member.name, content)
                else:
                    audio[key] = (_facts(tar, member.name, content), member, zlib.crc32(content))
                if key in speakers and key in audio:
                    facts, found, crc32 = audio[key]
                    yield IndexRow(
                        key,
                        speakers[key],
                        facts.coding,
                        found.offset_data,
                        found.size,
                        facts.header_bytes,
                        facts.sample_rate,
                        facts.num_samples,
                        crc32,
                    )
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise RecipeError(
            f"{tar}: not a complete tar without compression ({error}); expected members <key>.spk and <key>.wav; "
            "make it again"
        ) from error
    for key in speakers.keys() ^ audio.keys():
        missing = "speaker: no member " + f"{key}.spk" if key in audio else "audio: no member " + f"{key}.wav"
        raise RecipeError(f"{tar}: {key} has no {missing} (or {', '.join(AUDIO_SUFFIXES[1:])}); make the tar again")


def audio_facts(content: bytes) -> AudioFacts:
    """How to read an audio file that is held in memory.

    Raises:
        AudioError: it cannot be decoded.
    """
    facts = _pcm_facts(content)
    if facts is None and content.startswith(b"fLaC"):
        facts = _flac_facts(content)
    if facts is not None:
        check_format("audio in memory", facts.sample_rate, 1)
        return facts
    waveform, sample_rate = read_audio(io.BytesIO(content))
    return AudioFacts(Coding.WHOLE, 0, sample_rate, len(waveform))


def _pcm_facts(content: bytes) -> AudioFacts | None:
    """Of a WAV whose samples are 16-bit, mono and all there; None for anything else."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    at, sample_rate = 12, 0
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt " and size >= 16 and at + size <= len(content):
            code, channels, sample_rate, _, _, bits = struct.unpack_from("<HHIIHH", content, at)
            if code == _EXTENSIBLE_FORMAT and size >= 40 and content[at + 24 : at + 40] == _PCM_SUBFORMAT:
                code = _PCM_FORMAT
            if (code, channels, bits) != (_PCM_FORMAT, 1, 16):
                return None
        if name == b"data":
            is_whole = sample_rate > 0 and 0 < size <= len(content) - at and size % 2 == 0
            return AudioFacts(Coding.PCM, at, sample_rate, size // 2) if is_whole else None
        at += size + size % 2
    return None


def _flac_facts(content: bytes) -> AudioFacts | None:
    """Of a FLAC of 16-bit mono samples whose header can be believed; None for anything else."""
    try:
        info = soundfile_info(io.BytesIO(content), None)
    except RefusedError:
        return None
    if info.num_channels != 1 or soundfile.info(io.BytesIO(content)).subtype != "PCM_16":
        return None
    return AudioFacts(Coding.FLAC, 0, info.sample_rate, info.num_samples)


def _content(contents: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = contents.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} ends {member.size - len(content)} bytes too early")
    return content


def _speaker(tar: Path, name: str, content: bytes) -> str:
    try:
        speaker = content.removeprefix(BYTE_ORDER_MARK).decode().strip()
    except UnicodeDecodeError:
        speaker = ""
    if not is_field(speaker):
        raise RecipeError(f"{tar}: {name} holds {shown(content)}, expected the name of a speaker without white space")
    return speaker


def _facts(tar: Path, name: str, content: bytes) -> AudioFacts:
    try:
        return audio_facts(content)
    except AudioError as error:
        reason = str(error).removeprefix("audio in memory: ")
        raise RecipeError(
            f"{tar}: {name} cannot be used: {reason}; mend the recording and make the tar again"
        ) from error
