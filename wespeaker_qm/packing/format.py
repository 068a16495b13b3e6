"""Packed audio: plain tar archives that WeSpeaker reads in order, with an index that gives random access.

::

    data/mini/train/shard.list                      one tar path a line
                   /shard.index.npy, .json          all that the lists beside the tars say, for reading
    data/mini/train/shards/shards_000000.tar        <key>.spk, <key>.wav, <key>.spk, <key>.wav, ...
                          /shards_000000.index.tsv  key, speaker, format, offset, num_bytes, sample_rate, num_samples,
                                                    crc32
                          /shards_000000.bad.tsv    recordings left out of this shard: key, path, reason

``offset`` and ``num_bytes`` are those of the audio file's bytes inside the tar, ``crc32`` is their checksum: a
recording that is read as a whole is compared with it. The last line of a list is the SHA-256 of the lines above.

A 16-bit wav has a header of 44 bytes, so that sample ``a`` lies at ``offset + 44 + 2 a``: reading a chunk is one
``pread`` of just its bytes. FLAC takes about half the space and is decoded from the frame in which the chunk begins.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from wespeaker_qm.utils.errors import RecipeError, counted, found_at, shown, shown_line
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.text import read_names, read_text

CODECS = ("wav", "flac")
INDEX_COLUMNS = ("key", "speaker", "format", "offset", "num_bytes", "sample_rate", "num_samples", "crc32")
WAV_HEADER_BYTES = 44
TAR_BLOCK_BYTES = 512
PCM_SCALE = 32768.0
CHECKSUM_MARK = "#sha256\t"


def index_path(tar: Path) -> Path:
    """The list of what a tar holds."""
    return tar.with_suffix(".index.tsv")


def bad_path(tar: Path) -> Path:
    """The list of what was left out of a tar."""
    return tar.with_suffix(".bad.tsv")


def marker_path(tar: Path) -> Path:
    """What says that a tar is complete."""
    return tar.parent / ".done" / tar.stem


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Round a waveform in [-1, 1] to int16, the exact inverse of division by 32768; louder samples are clipped."""
    return np.clip(np.rint(waveform * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)


def encode_pcm16(pcm: np.ndarray, sample_rate: int, codec: str) -> bytes:
    """Return int16 samples (S,) as the bytes of a wav (header of 44 bytes) or flac file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


def write_list(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write tab-separated rows and, as the last line, their checksum."""
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    write_text(path, f"{text}{CHECKSUM_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n")


def read_list(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The rows of a list that :func:`write_list` wrote, without the names of the columns.

    Raises:
        RecipeError: no such file, damaged, or with other columns.
    """
    marker = marker_path(path.with_name(path.name.split(".")[0] + ".tar"))
    remedy = f"remove {marker} and pack again, which makes this list and its tar anew (run.sh --stage 2)"
    text = read_text(path, remedy) if path.is_file() else ""
    body, mark, checksum = text.rpartition(CHECKSUM_MARK)
    if not mark or checksum != hashlib.sha256(body.encode()).hexdigest() + "\n":
        found = "damaged, its last line is not the SHA-256 of the others" if path.is_file() else found_at(path)
        raise RecipeError(f"{path}: {found}; {remedy}")
    header, *rows = [line.split("\t") for line in body.removesuffix("\n").split("\n")]
    if header != list(columns):
        raise RecipeError(f"{path}: columns {shown(header)}, expected {list(columns)}; pack again (run.sh --stage 2)")
    for row in rows:
        if len(row) != len(columns):
            raise RecipeError(
                f"{path}: found {counted(len(row), 'field', 'fields')} in {shown_line(chr(9).join(row))}, expected "
                f"{len(columns)}; pack again (run.sh --stage 2)"
            )
    return rows


def read_shard_list(path: Path) -> list[Path]:
    """The tars of a ``shard.list``.

    Raises:
        RecipeError: it is missing or names none.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; pack the audio first (run.sh --stage 2)")
    tars = [Path(line) for line in read_names(path)]
    if not tars:
        raise RecipeError(f"{path}: names no tar; pack the audio again (run.sh --stage 2)")
    return tars
