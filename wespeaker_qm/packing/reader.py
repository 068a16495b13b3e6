"""Reading packed audio: random access to the recordings of a set, from any number of processes."""

import io
import os
import sys
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from wespeaker_qm.audio.io import read_audio
from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.audio.waveform import Waveform
from wespeaker_qm.packing.format import PCM_SCALE, TAR_BLOCK_BYTES, to_pcm16
from wespeaker_qm.packing.index import ShardIndex
from wespeaker_qm.packing.region import FileRegion
from wespeaker_qm.packing.scan import Coding
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.lock import lock_for_reading, unlock

# VoxCeleb2 has over a thousand shards, the usual limit of open files is 1024.
_MAX_OPEN_SHARDS = 256
_CHECKSUM_BLOCK_BYTES = 1 << 20


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


class _Recording:
    """A recording of a reader; see :meth:`ShardReader.recording`."""

    def __init__(self, reader: "ShardReader", i: int, num_samples: int) -> None:
        self._reader, self._i, self._num_samples = reader, i, num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, samples: slice) -> np.ndarray:
        first, end, _ = samples.indices(self._num_samples)
        return self._reader.read(self._i, first, max(0, end - first))


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
        return [key.decode(errors="replace") for key in self.index.records["key"].tolist()]

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
        return pcm.astype(np.float32) / np.float32(PCM_SCALE)

    def recording(self, i: int) -> Waveform:
        """Recording ``i``, compared with its checksum now, whose samples are read as they are asked for.

        One that can only be decoded from its beginning (neither PCM nor FLAC, in others' shards) is read as a whole.

        Raises:
            RecipeError: the tar does not hold what the index says.
        """
        record = _Record(*self.index.records[i].item())
        if record.coding not in (Coding.PCM, Coding.FLAC):
            return self.read(i)
        file, crc32 = self._file(record.shard), 0
        for done in range(0, record.num_bytes, _CHECKSUM_BLOCK_BYTES):
            block = bytearray(min(_CHECKSUM_BLOCK_BYTES, record.num_bytes - done))
            self._read_span(i, file, record.offset + done, memoryview(block))
            crc32 = zlib.crc32(block, crc32)
        self._compare_checksum(i, crc32, record)
        return _Recording(self, i, record.num_samples)

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
            self._read_flac(i, FileRegion(file, record.offset, record.num_bytes), start, pcm)
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
        self._compare_checksum(i, zlib.crc32(content), record)
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

    def _compare_checksum(self, i: int, crc32: int, record: _Record) -> None:
        if crc32 != record.crc32:
            raise self._broken(i, f"its bytes have the CRC-32 {crc32:08x}, expected {record.crc32:08x}")

    def _read_span(self, i: int, file: int, first: int, buffer: memoryview) -> None:
        try:
            found = os.preadv(file, [buffer], first) if len(buffer) else 0
        except OSError as error:
            raise self._broken(i, str(error)) from error
        if found != len(buffer):
            raise self._broken(i, f"{found} bytes at {first}, expected {len(buffer)}")

    def _read_flac(self, i: int, source: "io.RawIOBase | io.BytesIO", start: int, pcm: np.ndarray) -> None:
        try:
            with soundfile.SoundFile(source) as flac:
                flac.seek(start)
                found = len(flac.read(out=pcm))
        except Exception as error:  # libsndfile's, and whatever else a damaged stream makes of it
            raise self._broken(i, str(error)) from error
        if found != len(pcm):
            raise self._broken(i, f"{found} samples from {start}, expected {len(pcm)}")

    def _file(self, shard: int) -> int:
        """Return the descriptor of a tar, opened at its first use; the longest unused is closed beyond a limit."""
        descriptor = self._open_files.get(shard)
        if descriptor is None:
            tar = self.index.tars[shard]
            try:
                descriptor = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise RecipeError(
                    f"{tar}: cannot be opened ({error.strerror}; current directory {Path.cwd()}); start from where it "
                    "was packed, or pack again (run.sh --stage 2)"
                ) from error
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
            header = os.pread(descriptor, TAR_BLOCK_BYTES, int(record["offset"]) - TAR_BLOCK_BYTES)
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


def _is_named(expected: str, found: str) -> bool:
    """Whether a header's name, which may end after 100 bytes and lack what is not ASCII, begins as expected."""
    name = found.encode("utf-8", "surrogateescape")
    return any(
        name.startswith(each) or each.startswith(name)
        for each in (expected.encode(), expected.encode("ascii", "replace"))
    )
