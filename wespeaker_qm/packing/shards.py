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
import logging
import os
import random
import re
import sys
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from wespeaker_qm.audio.io import AudioError, read_audio, resample_audio
from wespeaker_qm.corpus.archives import recording_stamps
from wespeaker_qm.corpus.bad_audio import SILENCE_PEAK_DB, BadAudio, is_too_much, read_checked_audio, refuse_bad_audio
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.packing.index import (
    ShardIndex,
    damaged_tars,
    index_is_current,
    index_paths,
    read_shard_list,
    remove_index,
    write_index,
)
from wespeaker_qm.packing.scan import Coding, IndexRow, scan_tar
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text
from wespeaker_qm.utils.lock import lock_for_reading, lock_for_writing, unlock
from wespeaker_qm.utils.ownership import claim, refuse_foreign
from wespeaker_qm.utils.parallel import ordered_map

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the same recordings are packed into other bytes."""

CODECS = ("wav", "flac")
INDEX_COLUMNS = ("key", "speaker", "format", "offset", "num_bytes", "sample_rate", "num_samples", "crc32")

# As atomic_path names it; the lock says that nobody writes it now.
_TEMPORARY = re.compile(r"\.shards_\d{6,}\.\d+\.tmp\.tar")
_CHECKSUM_MARK = "#sha256\t"
_WAV_HEADER_BYTES = 44
_TAR_BLOCK_BYTES = 512
_PCM_SCALE = 32768.0
# VoxCeleb2 has over a thousand shards, the usual limit of open files is 1024.
_MAX_OPEN_SHARDS = 256


class _Options(NamedTuple):
    """What the bytes of a packed recording depend on, beside the recording."""

    sample_rate: int
    codec: str
    min_duration_s: float
    silence_peak_db: float


class _Source(NamedTuple):
    key: str
    speaker: str
    path: str
    is_gone: bool


class _Encoded(NamedTuple):
    """One recording ready for the tar; ``fault`` says why it was refused instead."""

    source: _Source
    data: bytes
    num_samples: int
    fault: str | None


class _Shard(NamedTuple):
    tar: Path
    sources: list[_Source]
    marker: DoneMarker

    @property
    def index_path(self) -> Path:
        return _index_path(self.tar)

    @property
    def bad_path(self) -> Path:
        return _bad_path(self.tar)


# ---------------------------------------------------------------------------------------------------------- writing


def pack_data_dir(
    data_dir: Path,
    *,
    sample_rate: int = 16000,
    codec: str = "wav",
    utterances_per_shard: int = 1000,
    shuffle: bool = True,
    seed: int = 42,
    num_workers: int = 1,
    min_duration_s: float = 0.0,
    silence_peak_db: float = SILENCE_PEAK_DB,
    max_bad_fraction: float = 0.0,
) -> None:
    """Pack a Kaldi data directory into shards: ``<data_dir>/shards/`` and, last of all, ``<data_dir>/shard.list``.

    The bytes written depend on the audio and the options only, never on the number of workers. A shard that is complete
    and whose inputs have not changed is kept, so an interrupted run continues where it stopped.

    Args:
        data_dir: holds ``wav.scp`` (paths, or locators in archives) and ``utt2spk``.
        sample_rate: all audio is brought to this rate, in Hz, and to one channel.
        codec: ``wav`` (16-bit PCM) or ``flac`` (16 bit).
        utterances_per_shard: recordings a tar, before bad ones are left out.
        shuffle: draw the order from ``seed`` (training; WeSpeaker's ``--shuffle``), else that of the sorted keys.
        seed: of the shuffled order.
        num_workers: processes that decode.
        min_duration_s: shorter recordings are bad audio.
        silence_peak_db: and so are those whose peak is below this level; minus infinity allows all but zeros.
        max_bad_fraction: largest fraction of bad recordings that are left out; more is an error.

    Raises:
        RecipeError: inconsistent data directory, a command in ``wav.scp``, or too much bad audio, which is then listed
            in ``<data_dir>/bad_audio.tsv``.
    """
    data_dir = Path(data_dir)
    if codec not in CODECS:
        raise RecipeError(f"codec {codec!r} is not known; expected one of {', '.join(CODECS)}")
    data = DataDir.read(data_dir)
    options = _Options(sample_rate, codec, min_duration_s, silence_peak_db)
    shards = _plan_shards(data_dir, data, utterances_per_shard, seed if shuffle else None, options)
    if not _is_packed(data_dir, shards, max_bad_fraction):
        _refuse(data_dir, shards)
        lock_for_writing(data_dir)
        try:
            if not _is_packed(data_dir, shards, max_bad_fraction):  # another process may have done it meanwhile
                _pack(data_dir, shards, options, num_workers, max_bad_fraction)
                return
        finally:
            unlock(data_dir, writer=True)
    logger.info(
        "stage pack: %s: nothing changed since the last run, skipped (delete %s to force)",
        data_dir.name,
        data_dir / "shards",
    )


def _is_packed(data_dir: Path, shards: Sequence[_Shard], max_bad_fraction: float) -> bool:
    """Whether all is there, and the limit of bad audio, which may be stricter this time, is kept."""
    shard_list = data_dir / "shard.list"
    if not shard_list.is_file() or shard_list.read_text(encoding="utf-8") != _list_text(shards):
        return False
    if not all(shard.marker.is_current() for shard in shards):
        return False
    if not index_is_current(shard_list, [shard.tar for shard in shards]):
        return False
    num_files = sum(len(shard.sources) for shard in shards)
    return not is_too_much(len(_bad_audio(shards)), num_files, max_bad_fraction)


def _pack(
    data_dir: Path, shards: Sequence[_Shard], options: _Options, num_workers: int, max_bad_fraction: float
) -> None:
    shard_list = data_dir / "shard.list"
    damaged = damaged_tars(shard_list)
    pending = [shard for shard in shards if shard.tar in damaged or not shard.marker.is_current()]
    complete = [shard for shard in shards if shard not in pending]
    num_files = sum(len(shard.sources) for shard in shards)
    num_gone = sum(source.is_gone for shard in shards for source in shard.sources)
    for folder, paths, was_packed in _outputs(data_dir, shards):
        claim(folder, paths, made_before=was_packed)
    shard_list.unlink(missing_ok=True)
    remove_index(shard_list)
    _add_checksums(complete)
    if complete:
        logger.info("%s: %d of %d shards are complete and kept", data_dir, len(complete), len(shards))
    encoded = ordered_map(
        partial(_encode, options=options), (source for shard in pending for source in shard.sources), num_workers
    )
    # What was packed of recordings that are gone may be their only copy: then it is not replaced, only judged.
    is_refused = is_too_much(num_gone, num_files, max_bad_fraction)
    bad: list[BadAudio] = []
    with _PackBar(data_dir.name, sum(len(shard.sources) for shard in pending)) as bar:
        for shard in pending:
            if is_refused:
                bad += _faults(shard, encoded, bar)
            else:
                _write_shard(shard, encoded, options, bar)
    bad += _bad_audio(complete if is_refused else shards)
    refuse_bad_audio(bad, num_files, max_bad_fraction, data_dir / "bad_audio.tsv")
    _remove_strays(data_dir / "shards", shards)
    write_index(shard_list, ((shard.tar, _index_rows(shard)) for shard in shards))
    write_text(shard_list, _list_text(shards))
    logger.info("%s: packed %d recordings into %d shard(s)", data_dir, num_files - len(bad), len(shards))


def _refuse(data_dir: Path, shards: Sequence[_Shard]) -> None:
    """Refuse to pack what is not there, or over what another program has packed, before anything is touched."""
    sources = [source for shard in shards for source in shard.sources]
    if all(source.is_gone for source in sources):
        raise RecipeError(
            f"{data_dir}/wav.scp: none of the {len(sources)} recordings is there, e.g. {sources[0].path}; nothing has "
            "been touched, and what is packed already can be used (leave stage 2 out). Put the audio back to pack it"
        )
    shard_list = data_dir / "shard.list"
    listed = read_shard_list(shard_list) if shard_list.is_file() else []
    foreign = [tar for tar in listed if tar.exists() and not _is_ours(tar)]
    if foreign:
        raise RecipeError(
            f"{shard_list}: {len(foreign)} of its {len(listed)} tars, e.g. {foreign[0]}, were packed by another "
            "program; nothing has been touched. Training and extraction read this list as it is (leave stage 2 out); "
            f"to pack {data_dir}/wav.scp instead, move {shard_list.name} away first"
        )
    for folder, paths, was_packed in _outputs(data_dir, shards):
        refuse_foreign(folder, paths, made_before=was_packed)


def _outputs(data_dir: Path, shards: Sequence[_Shard]) -> Iterator[tuple[Path, list[Path], bool]]:
    """What packing writes, by folder, and whether it is known to have made what lies there."""
    shard_list = data_dir / "shard.list"
    was_packed = any(_is_ours(shard.tar) for shard in shards)
    yield data_dir, [shard_list, *index_paths(shard_list), data_dir / "bad_audio.tsv"], was_packed
    for is_known in (False, True):
        paths = [path for shard in shards if _is_ours(shard.tar) == is_known for path in shard.marker.outputs]
        yield data_dir / "shards", paths, is_known


def _is_ours(tar: Path) -> bool:
    """Whether packing has made a tar: its marker, or a list with its columns, lies beside it."""
    if (_done_folder(tar.parent) / tar.stem).is_file():
        return True
    try:
        with _index_path(tar).open(encoding="utf-8") as handle:
            return handle.readline().startswith("\t".join(INDEX_COLUMNS[:-1]))
    except (OSError, UnicodeDecodeError):
        return False


def _list_text(shards: Sequence[_Shard]) -> str:
    return "".join(f"{shard.tar}\n" for shard in shards)


def _bad_audio(shards: Sequence[_Shard]) -> list[BadAudio]:
    return [BadAudio(*row) for shard in shards for row in _read_list(shard.bad_path, BadAudio._fields)]


def _plan_shards(
    data_dir: Path, data: DataDir, utterances_per_shard: int, seed: int | None, options: _Options
) -> list[_Shard]:
    keys = sorted(data.wav)
    if not keys:
        raise RecipeError(f"{data_dir}/wav.scp: no entries; expected at least one recording")
    if seed is not None:
        random.Random(seed).shuffle(keys)
    stamps = dict(zip(keys, recording_stamps(data.wav[key] for key in keys), strict=True))
    shards: list[_Shard] = []
    for first in range(0, len(keys), utterances_per_shard):
        tar = data_dir / "shards" / f"shards_{first // utterances_per_shard:06d}.tar"
        sources = [
            _Source(key, data.speaker[key], data.wav[key], stamps[key].endswith(" absent"))
            for key in keys[first : first + utterances_per_shard]
        ]
        inputs = [options, [(source.key, source.speaker, stamps[source.key]) for source in sources]]
        outputs = [tar, _index_path(tar), _bad_path(tar)]
        shards.append(
            _Shard(tar, sources, DoneMarker(_done_folder(tar.parent) / tar.stem, inputs, outputs, version=VERSION))
        )
    return shards


def _index_rows(shard: _Shard) -> Iterator[IndexRow]:
    for key, speaker, codec, offset, num_bytes, rate, num_samples, crc32 in _read_list(shard.index_path, INDEX_COLUMNS):
        coding, header_bytes = (Coding.FLAC, 0) if codec == "flac" else (Coding.PCM, _WAV_HEADER_BYTES)
        yield IndexRow(
            key,
            speaker,
            coding,
            int(offset),
            int(num_bytes),
            header_bytes,
            int(rate),
            int(num_samples),
            int(crc32, 16),
        )


def _add_checksums(shards: Sequence[_Shard]) -> None:
    """Write the lists of complete shards again that an earlier version wrote without checksums; the tars are read."""
    for shard in tqdm(shards, desc="checksums", unit="tar", disable=None):
        with shard.index_path.open(encoding="utf-8") as handle:
            if handle.readline().rstrip("\n").split("\t") != list(INDEX_COLUMNS[:-1]):
                continue
        rows = [
            (
                *(row.key, row.speaker, "flac" if row.coding == Coding.FLAC else "wav", row.offset, row.num_bytes),
                *(row.sample_rate, row.num_samples, f"{row.crc32:08x}"),
            )
            for row in scan_tar(shard.tar)
        ]
        with shard.bad_path.open(encoding="utf-8") as handle:
            # An interruption may have left this list with a checksum already.
            bad_rows = [line.rstrip("\n").split("\t") for line in handle if not line.startswith(_CHECKSUM_MARK)]
        _write_list(shard.bad_path, bad_rows)
        _write_list(shard.index_path, [INDEX_COLUMNS, *rows])


def _remove_strays(folder: Path, shards: Sequence[_Shard]) -> None:
    """Remove what a packing into more shards, or one that was killed, left behind: nobody would ever read it."""
    stems = {shard.tar.stem for shard in shards}
    for tar in folder.glob("shards_*.tar"):
        if tar.stem not in stems and _is_ours(tar):
            for path in (tar, _index_path(tar), _bad_path(tar), _done_folder(folder) / tar.stem):
                path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


class _PackBar(tqdm):  # type: ignore[type-arg]
    """Counts recordings, whose number is known, and shows hours of audio, which are not."""

    def __init__(self, name: str, total: int) -> None:
        self.hours = 0.0
        super().__init__(total=total, desc=f"pack {name}", unit=" files", disable=None if total else True)

    def count(self, duration_s: float) -> None:
        """One recording more."""
        self.hours += duration_s / 3600
        rate = self.hours / max(self.format_dict["elapsed"], 1e-9)
        self.set_postfix_str(f"{self.hours:.2f} h of audio, {rate:.3g} h/s", refresh=False)
        self.update()


def _encode(source: _Source, options: _Options) -> _Encoded:
    """Decode, check and encode one recording: all the work of a worker."""
    try:
        waveform, native_rate = read_checked_audio(source.path, options.min_duration_s, options.silence_peak_db)
    except AudioError as error:
        return _Encoded(source, b"", 0, str(error))
    pcm = to_pcm16(resample_audio(waveform, native_rate, options.sample_rate))
    return _Encoded(source, encode_pcm16(pcm, options.sample_rate, options.codec), len(pcm), None)


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Round a waveform in [-1, 1] to int16, the exact inverse of division by 32768; louder samples are clipped."""
    return np.clip(np.rint(waveform * _PCM_SCALE), -_PCM_SCALE, _PCM_SCALE - 1).astype(np.int16)


def encode_pcm16(pcm: np.ndarray, sample_rate: int, codec: str) -> bytes:
    """Return int16 samples (S,) as the bytes of a wav (header of 44 bytes) or flac file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format=codec.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _faults(shard: _Shard, encoded: Iterator[_Encoded], bar: "_PackBar") -> list[BadAudio]:
    """The next recordings' faults; nothing is written."""
    bad = []
    for source in shard.sources:
        fault = next(encoded).fault
        bar.count(0.0)
        if fault is not None:
            bad.append(BadAudio(source.key, source.path, fault))
    return bad


def _write_shard(shard: _Shard, encoded: Iterator[_Encoded], options: _Options, bar: "_PackBar") -> None:
    """Write one tar from the next recordings and its lists, then its marker. Where there is a tar, there are lists."""
    shard.marker.clear()
    index_rows: list[Sequence[object]] = [INDEX_COLUMNS]
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
                index_rows.append(
                    (
                        *(source.key, source.speaker, options.codec, offset, len(audio)),
                        *(options.sample_rate, num_samples, f"{zlib.crc32(audio):08x}"),
                    )
                )
        _write_list(shard.bad_path, bad_rows)
        _write_list(shard.index_path, index_rows)
    shard.marker.write()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file and return the offset of its content in the tar. TarInfo's own defaults (mtime 0, uid 0) stay."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    padded = -(-len(content) // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
    return tar.offset - padded


# ---------------------------------------------------------------------------------------------------------- reading


def _write_list(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Write tab-separated rows and, as the last line, their checksum."""
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    write_text(path, f"{text}{_CHECKSUM_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n")


def _read_list(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The rows of such a list, without the names of the columns."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    body, mark, checksum = text.rpartition(_CHECKSUM_MARK)
    if not mark or checksum != hashlib.sha256(body.encode()).hexdigest() + "\n":
        found = "damaged, its last line is not the SHA-256 of the others" if text else "no such file"
        raise RecipeError(
            f"{path}: {found}; remove {_done_folder(path.parent) / path.name.split('.')[0]} and pack again, which "
            "makes this list and its tar anew (run.sh --stage 2)"
        )
    header, *rows = [line.split("\t") for line in body.splitlines()]
    if header != list(columns):
        raise RecipeError(f"{path}: columns {header}, expected {list(columns)}; pack again (run.sh --stage 2)")
    return rows


def _done_folder(shards_folder: Path) -> Path:
    return shards_folder / ".done"


class _Record(NamedTuple):
    """A record of the index, field by field."""

    key: bytes
    speaker: int
    shard: int
    coding: int
    header_bytes: int
    offset: int
    num_bytes: int
    num_samples: int
    crc32: int


class ShardReader:
    """Random access to the packed recordings of one ``shard.list``.

    The index is mapped, not held; a read fetches just the bytes it needs with ``os.preadv``, which moves no file
    position: forked loader workers may share the reader, spawned ones get a pickled copy that opens the files anew.

    Args:
        shard_list: e.g. ``data/mini/train/shard.list``, or one of WeSpeaker's (``tools/make_shard_list.py``) as it is;
            its paths are relative to the current directory, as in Kaldi.

    Raises:
        RecipeError: a list, tar or index is missing, or they do not belong together.
    """

    def __init__(self, shard_list: Path | str) -> None:
        self._open(Path(shard_list), lambda: ShardIndex.load(Path(shard_list)))

    def _open(self, shard_list: Path, load: Callable[[], ShardIndex]) -> None:
        self._open_files: OrderedDict[int, int] = OrderedDict()
        self._checked_shards: set[int] = set()
        self._position: dict[str, int] | None = None
        self._is_locked = False
        self.shard_list = shard_list
        self._is_locked = lock_for_reading(shard_list.parent)
        self.index = load()

    def __len__(self) -> int:
        return len(self.index.records)

    @property
    def sample_rate(self) -> int:
        """Of all recordings, in Hz."""
        return self.index.sample_rate

    @property
    def num_samples(self) -> np.ndarray:
        """(N,) samples of each recording."""
        samples: np.ndarray = self.index.records["num_samples"]
        return samples

    @property
    def keys(self) -> list[str]:
        """Key of each recording, made anew at every call: for the small sets that are evaluated."""
        return [key.decode() for key in self.index.records["key"].tolist()]

    @property
    def speakers(self) -> list[str]:
        """Speaker of each recording, likewise."""
        return [self.index.speaker_names[speaker] for speaker in self.index.records["speaker"].tolist()]

    def index_of(self, key: str) -> int:
        """Return the position of a key.

        Raises:
            RecipeError: the key was not packed.
        """
        if self._position is None:
            self._position = {name: position for position, name in enumerate(self.keys)}
        if key not in self._position:
            raise RecipeError(
                f"{self.shard_list}: no recording {key!r} among the {len(self)} packed; "
                f"see {self.shard_list.parent / 'bad_audio.tsv'} for those left out"
            )
        return self._position[key]

    def read(self, i: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Return samples ``start`` to ``start + num_samples`` (to the end, when None) of recording ``i``.

        A recording that is read as a whole is compared with its checksum.

        Returns:
            float32 (S,) in [-1, 1], at :attr:`sample_rate`.

        Raises:
            ValueError: the span is not within the recording.
            RecipeError: the tar does not hold what the index says.
        """
        if num_samples is None:
            num_samples = int(self.index.records["num_samples"][i]) - start
        pcm = np.empty(max(num_samples, 0), dtype=np.int16)
        self.read_pcm(i, start, pcm)
        return pcm.astype(np.float32) / np.float32(_PCM_SCALE)

    def read_pcm(self, i: int, start: int, pcm: np.ndarray) -> None:
        """Fill ``pcm``, int16 (S,) and contiguous, with the samples of recording ``i`` from ``start`` on.

        Raises:
            ValueError: the span is not within the recording.
            RecipeError: the tar does not hold what the index says.
        """
        record = _Record(*self.index.records[i].item())
        if start < 0 or start + len(pcm) > record.num_samples:
            raise ValueError(
                f"{self.index.key(i)}: samples {start} to {start + len(pcm)} asked for, it has {record.num_samples}"
            )
        file = self._file(record.shard)
        if len(pcm) == record.num_samples:
            pcm[:] = self._whole(i, file, record)
        elif record.coding == Coding.PCM:
            self._read_span(i, file, record.offset + record.header_bytes + 2 * start, pcm.view(np.uint8).data)
            if sys.byteorder == "big":
                pcm.byteswap(inplace=True)
        elif record.coding == Coding.FLAC:
            self._read_flac(i, _FileRegion(file, record.offset, record.num_bytes), start, pcm)
        else:
            pcm[:] = self._whole(i, file, record)[start : start + len(pcm)]

    def close(self) -> None:
        """Close the tars that reading has opened; a later read opens them again."""
        while self._open_files:
            os.close(self._open_files.popitem()[1])

    def __del__(self) -> None:
        self.close()
        if self._is_locked:
            unlock(self.shard_list.parent, writer=False)

    def __getstate__(self) -> tuple[Path, ShardIndex | None]:
        return self.shard_list, None if self.index.is_mapped else self.index

    def __setstate__(self, state: tuple[Path, ShardIndex | None]) -> None:
        # The process that made the copy has verified the index.
        shard_list, index = state
        self._open(shard_list, lambda: index or ShardIndex.load(shard_list, verify=False))

    def _whole(self, i: int, file: int, record: _Record) -> np.ndarray:
        """All samples of a recording, int16, from bytes that have the right checksum."""
        content = bytearray(record.num_bytes)
        self._read_span(i, file, record.offset, memoryview(content))
        crc32 = zlib.crc32(content)
        if crc32 != record.crc32:
            raise self._broken(i, f"its bytes have the CRC-32 {crc32:08x}, expected {record.crc32:08x}")
        if record.coding == Coding.PCM:
            return np.frombuffer(content, "<i2", record.num_samples, record.header_bytes)
        pcm = np.empty(record.num_samples, dtype=np.int16)
        if record.coding == Coding.FLAC:
            self._read_flac(i, io.BytesIO(content), 0, pcm)
            return pcm
        try:
            waveform, _ = read_audio(io.BytesIO(content))
        except AudioError as error:
            raise self._broken(i, str(error)) from error
        if len(waveform) != record.num_samples:
            raise self._broken(i, f"{len(waveform)} samples, expected {record.num_samples}")
        return to_pcm16(waveform)

    def _read_span(self, i: int, file: int, first: int, buffer: memoryview) -> None:
        found = os.preadv(file, [buffer], first) if len(buffer) else 0
        if found != len(buffer):
            raise self._broken(i, f"{found} bytes at {first}, expected {len(buffer)}")

    def _read_flac(self, i: int, source: "io.RawIOBase | io.BytesIO", start: int, pcm: np.ndarray) -> None:
        try:
            with soundfile.SoundFile(source) as flac:
                flac.seek(start)
                found = len(flac.read(out=pcm))
        except soundfile.LibsndfileError as error:
            raise self._broken(i, str(error)) from error
        if found != len(pcm):
            raise self._broken(i, f"{found} samples from {start}, expected {len(pcm)}")

    def _file(self, shard: int) -> int:
        """Return the descriptor of a tar, opened at its first use; the longest unused is closed beyond a limit."""
        descriptor = self._open_files.get(shard)
        if descriptor is None:
            descriptor = os.open(self.index.tars[shard], os.O_RDONLY | os.O_CLOEXEC)
            self._open_files[shard] = descriptor
            if shard not in self._checked_shards:
                self._check_members(shard, descriptor)
                self._checked_shards.add(shard)
            if len(self._open_files) > _MAX_OPEN_SHARDS:
                os.close(self._open_files.popitem(last=False)[1])
        self._open_files.move_to_end(shard)
        return descriptor

    def _check_members(self, shard: int, descriptor: int) -> None:
        """Compare the first and last tar headers with the index: an index of another packing differs in one of them."""
        first, end = self.index.shard_start[shard : shard + 2].tolist()
        for i in (first, end - 1):
            record = self.index.records[i]
            expected = f"{self.index.key(i)}."
            header = os.pread(descriptor, _TAR_BLOCK_BYTES, int(record["offset"]) - _TAR_BLOCK_BYTES)
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise self._broken(i, f"no tar member {expected}* ({error})") from error
            if not _is_named(expected, info.name) or info.size != record["num_bytes"]:
                raise self._broken(
                    i, f"tar member {info.name} of {info.size} bytes, expected {expected}* of {record['num_bytes']}"
                )

    def _broken(self, i: int, found: str) -> RecipeError:
        tar = self.index.tars[self.index.records["shard"][i]]
        return RecipeError(
            f"{tar}: recording {self.index.key(i)} is not as the index of {self.shard_list.name} says: {found}; the "
            "tar is damaged or the index is of another packing; remove both and pack again (run.sh --stage 2)"
        )


def _index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.tsv")


def _bad_path(tar: Path) -> Path:
    return tar.with_suffix(".bad.tsv")


def _is_named(expected: str, found: str) -> bool:
    """Whether a header's name, which may end after 100 bytes and lack what is not ASCII, begins as expected."""
    name = found.encode("utf-8", "surrogateescape")
    return any(
        name.startswith(each) or each.startswith(name)
        for each in (expected.encode(), expected.encode("ascii", "replace"))
    )


class _FileRegion(io.RawIOBase):
    """A read-only, seekable view of bytes ``offset`` to ``offset + num_bytes`` of an open file, for a decoder."""

    def __init__(self, descriptor: int, offset: int, num_bytes: int) -> None:
        self._descriptor, self._offset, self._num_bytes, self._at = descriptor, offset, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = max(0, origin + position)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._num_bytes - self._at))
        data = os.pread(self._descriptor, count, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
