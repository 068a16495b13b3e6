"""One shard: a tar with the lists beside it and a marker; planned, written, and read back."""

import io
import random
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.audio.resample import resample_blocks
from wespeaker_qm.audio.source import AudioError, AudioStream
from wespeaker_qm.corpus.archives import recording_stamps
from wespeaker_qm.corpus.bad_audio import BadAudio, take_checked
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.format import (
    CHECKSUM_MARK,
    INDEX_COLUMNS,
    TAR_BLOCK_BYTES,
    WAV_HEADER_BYTES,
    bad_path,
    encode_pcm16,
    index_path,
    marker_path,
    read_list,
    to_pcm16,
    write_list,
)
from wespeaker_qm.packing.scan import Coding, IndexRow, scan_tar
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.layout import SetFolder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.text import read_text


class PackOptions(NamedTuple):
    """What the bytes of a packed recording depend on, beside the recording."""

    sample_rate: int
    codec: str
    min_duration_s: float
    silence_peak_db: float


class PlannedRecording(NamedTuple):
    """A recording to be packed; ``is_gone`` says that its file is not there."""

    key: str
    speaker: str
    path: str
    is_gone: bool


class Encoded(NamedTuple):
    """One recording ready for the tar; ``fault`` says why it was refused instead."""

    source: PlannedRecording
    data: bytes
    num_samples: int
    fault: str | None


class Shard(NamedTuple):
    """A tar, what goes into it, and the marker that says that it is complete."""

    tar: Path
    sources: list[PlannedRecording]
    marker: DoneMarker

    @property
    def index_path(self) -> Path:
        """The list of what is in it."""
        return index_path(self.tar)

    @property
    def bad_path(self) -> Path:
        """The list of what was left out."""
        return bad_path(self.tar)


def plan_shards(
    folder: SetFolder, data: DataDir, utterances_per_shard: int, seed: int | None, options: PackOptions
) -> list[Shard]:
    """Divide the recordings of a set among shards.

    Args:
        folder: of the set.
        data: its tables.
        utterances_per_shard: recordings a tar.
        seed: of the order; None is that of the sorted keys.
        options: what else the bytes depend on.

    Raises:
        RecipeError: the set has no recordings.
    """
    keys = sorted(data.wav)
    if not keys:
        raise RecipeError(f"{folder.wav_scp}: no entries; expected at least one recording")
    if seed is not None:
        random.Random(seed).shuffle(keys)
    stamps = dict(zip(keys, recording_stamps(data.wav[key] for key in keys), strict=True))
    shards: list[Shard] = []
    for first in range(0, len(keys), utterances_per_shard):
        tar = folder.shards / f"shards_{first // utterances_per_shard:06d}.tar"
        sources = [
            PlannedRecording(key, data.speaker[key], data.wav[key], stamps[key].endswith(" absent"))
            for key in keys[first : first + utterances_per_shard]
        ]
        inputs = [options, [(source.key, source.speaker, stamps[source.key]) for source in sources]]
        outputs = [tar, index_path(tar), bad_path(tar)]
        shards.append(
            Shard(tar, sources, DoneMarker(marker_path(tar), inputs, outputs, version=STAGE_VERSIONS["pack"]))
        )
    return shards


class PackBar(Progress):
    """Counts recordings, whose number is known, and shows hours of audio, which are not."""

    def __init__(self, name: str, total: int) -> None:
        self.hours = 0.0
        super().__init__(total=total, desc=f"pack {name}", unit=" files", show=bool(total))

    def count(self, duration_s: float) -> None:
        """One recording more."""
        self.hours += duration_s / 3600
        rate = self.hours / max(self.format_dict["elapsed"], 1e-9)
        self.set_postfix_str(f"{self.hours:.2f} h of audio, {rate:.3g} h/s", refresh=False)
        self.update()


def encode(source: PlannedRecording, options: PackOptions) -> Encoded:
    """Decode, check and encode one recording: all the work of a worker."""
    try:
        pcm = take_checked(
            source.path,
            partial(_pcm_at, sample_rate=options.sample_rate),
            options.min_duration_s,
            options.silence_peak_db,
        )
    except AudioError as error:
        return Encoded(source, b"", 0, str(error))
    return Encoded(source, encode_pcm16(pcm, options.sample_rate, options.codec), len(pcm), None)


def _pcm_at(stream: AudioStream, sample_rate: int) -> np.ndarray:
    """All samples at a rate, int16 (S,): of a long recording, a fraction of the floats that it is decoded to."""
    return np.concatenate(
        [to_pcm16(block) for block in resample_blocks(stream.blocks, stream.sample_rate, sample_rate)]
    )


def faults(shard: Shard, encoded: Iterator[Encoded], bar: PackBar) -> list[BadAudio]:
    """The next recordings' faults; nothing is written."""
    bad = []
    for source in shard.sources:
        fault = next(encoded).fault
        bar.count(0.0)
        if fault is not None:
            bad.append(BadAudio(source.key, source.path, fault))
    return bad


def write_shard(shard: Shard, encoded: Iterator[Encoded], options: PackOptions, bar: PackBar) -> None:
    """Write one tar from the next recordings and its lists, then its marker. Where there is a tar, there are lists.

    Args:
        shard: what to write.
        encoded: of all recordings that are to be packed, those of this shard next.
        options: as they were encoded.
        bar: counts them.
    """
    shard.marker.clear()
    rows: list[Sequence[object]] = [INDEX_COLUMNS]
    bad_rows: list[Sequence[object]] = [BadAudio._fields]
    with atomic_path(shard.tar) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
            for source in shard.sources:
                _, audio, num_samples, fault = next(encoded)
                bar.count(num_samples / options.sample_rate)
                if fault is not None:
                    bad_rows.append(BadAudio(source.key, source.path, fault))
                    continue
                _add_member(tar, f"{source.key}.spk", source.speaker.encode())
                offset = _add_member(tar, f"{source.key}.{options.codec}", audio)
                rows.append(
                    (
                        *(source.key, source.speaker, options.codec, offset, len(audio)),
                        *(options.sample_rate, num_samples, f"{zlib.crc32(audio):08x}"),
                    )
                )
        write_list(shard.bad_path, bad_rows)
        write_list(shard.index_path, rows)
    shard.marker.write()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file and return the offset of its content in the tar. TarInfo's own defaults (mtime 0, uid 0) stay."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    padded = -(-len(content) // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
    return tar.offset - padded


def bad_audio(shards: Sequence[Shard]) -> list[BadAudio]:
    """All that was left out of complete shards."""
    return [BadAudio(*row) for shard in shards for row in read_list(shard.bad_path, BadAudio._fields)]


def index_rows(shard: Shard) -> Iterator[IndexRow]:
    """A row for each recording in a complete shard."""
    for row in read_list(shard.index_path, INDEX_COLUMNS):
        key, speaker, codec, offset, num_bytes, rate, num_samples, crc32 = row
        coding, header_bytes = (Coding.FLAC, 0) if codec == "flac" else (Coding.PCM, WAV_HEADER_BYTES)
        try:
            numbers = int(offset), int(num_bytes), header_bytes, int(rate), int(num_samples), int(crc32, 16)
            if not 0 <= min(numbers) <= max(numbers) < 2**62:
                raise ValueError(f"found {shown(numbers)}, expected sizes of a tar")
        except ValueError as error:
            raise RecipeError(f"{shard.index_path}: {error}; pack again (run.sh --stage 2)") from error
        yield IndexRow(key, speaker, coding, *numbers)


def add_checksums(shards: Sequence[Shard]) -> None:
    """Write the lists of complete shards again that an earlier version wrote without checksums; the tars are read."""
    for shard in Progress(shards, desc="checksums", unit="tar"):
        if not read_text(shard.index_path).startswith("\t".join(INDEX_COLUMNS[:-1]) + "\n"):
            continue
        rows = [
            (
                *(row.key, row.speaker, "flac" if row.coding == Coding.FLAC else "wav", row.offset, row.num_bytes),
                *(row.sample_rate, row.num_samples, f"{row.crc32:08x}"),
            )
            for row in scan_tar(shard.tar)
        ]
        # An interruption may have left this list with a checksum already.
        bad_text = read_text(shard.bad_path).partition(CHECKSUM_MARK)[0]
        write_list(shard.bad_path, [line.split("\t") for line in bad_text.removesuffix("\n").split("\n")])
        write_list(shard.index_path, [INDEX_COLUMNS, *rows])


def is_ours(tar: Path) -> bool:
    """Whether packing has made a tar: its marker, or a list with its columns, lies beside it."""
    if marker_path(tar).is_file():
        return True
    try:
        return read_text(index_path(tar)).startswith("\t".join(INDEX_COLUMNS[:-1]))
    except RecipeError:
        return False
