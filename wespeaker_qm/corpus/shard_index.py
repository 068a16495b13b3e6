"""Where every recording of a packed set lies: one table, mapped into memory, for a million recordings as for ten.

::

    data/mini/train/shard.list         one tar path a line
                   /shard.index.npy    one record a recording, in the order of the tars
                   /shard.index.json   sample rate, tars with their sizes, speaker names, checksums; written last

A process that maps the table holds only the pages that it looks at, and shares them with every other process. Made by
packing from the lists beside the tars (:mod:`wespeaker_qm.corpus.shards`).

Each file is checked where it is opened: ``shard.index.json`` holds the SHA-256 of ``shard.index.npy`` and of its own
other entries, a record the CRC-32 of its recording's bytes. So the SHA-256 of the index stands for all that is packed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text

_VERSION = 3
_SEAL = "sha256"
_ROW_COLUMNS = (
    *(("coding", "u1"), ("header_bytes", "<u4"), ("offset", "<i8"), ("num_bytes", "<i8")),
    *(("num_samples", "<i8"), ("crc32", "<u4")),
)


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


@dataclass(frozen=True)
class ShardIndex:
    """The recordings of a packed set.

    Attributes:
        tars: in the order of ``shard.list``.
        sample_rate: of all recordings, in Hz.
        speaker_names: sorted; a record's ``speaker`` is a position in it.
        records: (N,) with the fields ``key`` (UTF-8 bytes), ``speaker``, ``shard`` (a position in ``tars``),
            ``coding``, ``offset``, ``num_bytes``, ``header_bytes``, ``num_samples`` and ``crc32``, as in an
            :class:`IndexRow`; mapped from the file.
        shard_start: (number of tars + 1,) the first record of each tar, and N.
    """

    tars: list[Path]
    sample_rate: int
    speaker_names: list[str]
    records: np.ndarray
    shard_start: np.ndarray

    @classmethod
    def load(cls, shard_list: Path, *, verify: bool = True) -> "ShardIndex":
        """Map the index beside ``shard_list``.

        Args:
            shard_list: a list of tars.
            verify: False where another reader has just opened the same index: its table is not read once more.

        Raises:
            RecipeError: a list, tar or index is missing or damaged, or they do not belong together.
        """
        facts = _checked_facts(shard_list)
        path = _records_path(shard_list)
        if verify and _file_sha256(path) != facts["records_sha256"]:
            raise _damaged(path, "its content has another SHA-256 than when it was written")
        # As a plain array: every access to a memmap makes a new one, which takes longer than the access.
        records = np.load(path, mmap_mode="r").view(np.ndarray)
        shard_start = np.cumsum([0, *facts["tar_recordings"]])
        return cls([Path(tar) for tar in facts["tars"]], facts["sample_rate"], facts["speakers"], records, shard_start)

    def key(self, i: int) -> str:
        """The key of recording ``i``."""
        key: bytes = self.records["key"][i]
        return key.decode()


def packed_digest(set_dir: Path) -> str:
    """A SHA-256, in hexadecimal, of what a packed set holds: keys, speakers, audio, and their order.

    The same whenever and wherever the same audio was packed; from the index alone, so in no time.

    Raises:
        RecipeError: the set is not packed, or its index is damaged or of other tars.
    """
    facts = _checked_facts(set_dir / "shard.list")
    held = {name: facts[name] for name in ("sample_rate", "speakers", "records_sha256")}
    return hashlib.sha256(_canonical(held)).hexdigest()


def read_shard_list(path: Path) -> list[Path]:
    """The tars of a ``shard.list``.

    Raises:
        RecipeError: it is missing or names none.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; pack the audio first (run.sh --stage 2)")
    tars = [Path(line.strip()) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not tars:
        raise RecipeError(f"{path}: names no tar; pack the audio again (run.sh --stage 2)")
    return tars


def write_index(shard_list: Path, shards: Iterable[tuple[Path, Iterator[IndexRow]]]) -> None:
    """Write the index that belongs to ``shard_list``, whose tars are complete, from their rows in turn.

    Raises:
        RecipeError: no recordings, a tar shorter than its rows say, a key that stands twice, sample rates that differ.
    """
    remove_index(shard_list)
    tars: list[Path] = []
    keys: list[bytes] = []
    numbers: list[tuple[int, ...]] = []
    # One string a speaker, not one an utterance.
    speakers: dict[str, int] = {}
    speaker_of: list[int] = []
    rates = set()
    for shard, (tar, rows) in enumerate(shards):
        tars.append(tar)
        end = 0
        for row in rows:
            keys.append(row.key.encode())
            speaker_of.append(speakers.setdefault(row.speaker, len(speakers)))
            numbers.append((shard, *(getattr(row, name) for name, _ in _ROW_COLUMNS)))
            rates.add(row.sample_rate)
            end = row.offset + row.num_bytes
        if tar.stat().st_size < end:
            raise RecipeError(
                f"{tar}: {tar.stat().st_size} bytes, but its index goes up to byte {end}: the tar is truncated or "
                "the index is of another packing; remove both and pack again (run.sh --stage 2)"
            )
    if len(rates) != 1:
        raise RecipeError(f"{shard_list}: sample rates {sorted(rates)}, expected exactly one; pack again")
    if len(set(keys)) != len(keys):
        raise RecipeError(f"{shard_list}: some keys stand twice; keys must be unique; pack again")
    names = sorted(speakers)
    sorted_position = np.empty(len(names), dtype=np.int32)
    sorted_position[[speakers[name] for name in names]] = np.arange(len(names))
    key_type = f"S{max(len(key) for key in keys)}"
    records = np.empty(len(keys), dtype=[("key", key_type), ("speaker", "<i4"), ("shard", "<i4"), *_ROW_COLUMNS])
    table = np.array(numbers, dtype=np.int64)
    for column, name in enumerate(("shard", *(name for name, _ in _ROW_COLUMNS))):
        records[name] = table[:, column]
    records["key"] = keys
    records["speaker"] = sorted_position[speaker_of]
    with atomic_path(_records_path(shard_list)) as temporary, temporary.open("wb") as file:
        np.save(file, records)
    facts = {
        "version": _VERSION,
        "sample_rate": rates.pop(),
        "num_recordings": len(keys),
        "tars": [str(tar) for tar in tars],
        "tar_recordings": np.bincount(records["shard"], minlength=len(tars)).tolist(),
        "tar_bytes": [tar.stat().st_size for tar in tars],
        "speakers": names,
        "records_sha256": _file_sha256(_records_path(shard_list)),
    }
    facts[_SEAL] = hashlib.sha256(_canonical(facts)).hexdigest()
    write_text(_facts_path(shard_list), json.dumps(facts, ensure_ascii=False, indent=0))


def remove_index(shard_list: Path) -> None:
    """Remove the index of ``shard_list``, if there is one."""
    for path in index_paths(shard_list):
        path.unlink(missing_ok=True)


def index_paths(shard_list: Path) -> list[Path]:
    """The files of the index of ``shard_list``."""
    return [_facts_path(shard_list), _records_path(shard_list)]


def index_is_current(shard_list: Path, tars: Sequence[Path]) -> bool:
    """Whether the index beside ``shard_list`` is whole and that of these tars, as large as they are now."""
    try:
        facts = _checked_facts(shard_list)
    except RecipeError:
        return False
    return (
        facts["tars"] == [str(tar) for tar in tars]
        and _file_sha256(_records_path(shard_list)) == facts["records_sha256"]
    )


def _records_path(shard_list: Path) -> Path:
    return shard_list.with_suffix(".index.npy")


def _facts_path(shard_list: Path) -> Path:
    return shard_list.with_suffix(".index.json")


def _checked_facts(shard_list: Path) -> dict[str, Any]:
    """The facts of an index that is whole and belongs to the tars of ``shard_list``, which are as large as it says."""
    tars = read_shard_list(shard_list)
    path = _facts_path(shard_list)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    if facts.get("version") != _VERSION or not _records_path(shard_list).is_file():
        raise RecipeError(
            f"{path}: no such file, or of another version; it is made from the lists beside the tars, without packing "
            "the audio again: run stage 2 again (run.sh --stage 2)"
        )
    if facts.pop(_SEAL, None) != hashlib.sha256(_canonical(facts)).hexdigest():
        raise _damaged(path, "it has another SHA-256 than when it was written")
    for tar, name, num_bytes in zip(tars, facts["tars"], facts["tar_bytes"], strict=False):
        if str(tar) != name:
            break
        if not tar.is_file():
            raise RecipeError(
                f"{shard_list}: names {tar}, which does not exist (current directory {Path.cwd()}); "
                "start from the folder where the audio was packed, or pack again (run.sh --stage 2)"
            )
        if tar.stat().st_size != num_bytes:
            raise RecipeError(
                f"{tar}: {tar.stat().st_size} bytes, but {num_bytes} when it was packed: the tar is truncated or "
                "of another packing; remove it and pack again (run.sh --stage 2)"
            )
    if [str(tar) for tar in tars] != facts["tars"]:
        raise RecipeError(f"{shard_list}: names other tars than {path.name} beside it; pack again (run.sh --stage 2)")
    return facts


def _canonical(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, found: str) -> RecipeError:
    return RecipeError(
        f"{path}: damaged or edited ({found}); it is made from the lists beside the tars, without packing the audio "
        "again: run stage 2 again (run.sh --stage 2)"
    )
