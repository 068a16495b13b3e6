"""Where every recording of a packed set lies: one table, mapped into memory, for a million recordings as for ten.

::

    data/mini/train/shard.list         one tar path a line
                   /shard.index.npy    one record a recording, in the order of the tars
                   /shard.index.json   sample rate, tars with their sizes, speaker names, checksums; written last

A process that maps the table holds only the pages that it looks at, and shares them with every other process. Made by
packing from the lists beside the tars (:mod:`wespeaker_qm.packing.format`). Of tars that another program has packed, as
WeSpeaker does, it is made where they are first opened, from the tars themselves, and again when one of them has another
size or time; it is kept in memory where it cannot be written.

Each file is checked where it is opened (:mod:`wespeaker_qm.packing.index_files`), and a record holds the CRC-32 of its
recording's bytes. So the SHA-256 of the index stands for all that is packed.
"""

import contextlib
import hashlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wespeaker_qm.packing.format import index_path, read_shard_list
from wespeaker_qm.packing.index_files import (
    TAR_TIMES,
    VERSION,
    canonical,
    check_table,
    checked_facts,
    compared_facts,
    facts_path,
    index_paths,
    mapped_table,
    one_process,
    read_facts,
    records_path,
    remove_index,
    store_index,
    tar_times,
)
from wespeaker_qm.packing.scan import Coding, IndexRow, scan_tar
from wespeaker_qm.utils.errors import RecipeError, counted, found_at, shown
from wespeaker_qm.utils.layout import SetFolder
from wespeaker_qm.utils.ownership import claim
from wespeaker_qm.utils.progress import Progress

logger = logging.getLogger(__name__)

# Only of an index that was made by scanning.
_TAR_STAMPS = "tar_stamps"
_ROW_COLUMNS = (
    *(("coding", "u1"), ("header_bytes", "<u4"), ("offset", "<i8"), ("num_bytes", "<i8")),
    *(("num_samples", "<i8"), ("crc32", "<u4")),
)

_MOST_KEY_BYTES = 1000

# Indices of tars beside which nothing can be written.
_in_memory: dict[tuple[Path, str], tuple[dict[str, Any], bytes]] = {}


@dataclass(frozen=True)
class ShardIndex:
    """The recordings of a packed set.

    Attributes:
        tars: in the order of ``shard.list``.
        sample_rate: of all recordings, in Hz.
        speaker_names: sorted; a record's ``speaker`` is a position in it.
        records: (N,) with the fields ``key`` (UTF-8 bytes), ``speaker``, ``shard`` (a position in ``tars``),
            ``coding``, ``offset``, ``num_bytes``, ``header_bytes``, ``num_samples`` and ``crc32``, as in an
            :class:`IndexRow`.
        shard_start: (number of tars + 1,) the first record of each tar, and N.
        is_mapped: whether the records are mapped from a file; else they are in memory.
    """

    tars: list[Path]
    sample_rate: int
    speaker_names: list[str]
    records: np.ndarray
    shard_start: np.ndarray
    is_mapped: bool

    @classmethod
    def load(cls, shard_list: Path, *, verify: bool = True) -> "ShardIndex":
        """Map the index beside ``shard_list``.

        Args:
            shard_list: a list of tars.
            verify: False where another reader has just opened the same index: its table is not read once more.

        Raises:
            RecipeError: a list, tar or index is missing or damaged, or they do not belong together; a tar that was
                changed since holds other audio.
        """
        facts, content = _facts(shard_list)
        path = records_path(shard_list)
        if content is not None:
            records = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            if verify:
                check_table(shard_list, facts)
            records = mapped_table(path)
            if verify:
                _check_records(path, records, facts)
        shard_start = np.cumsum([0, *facts["tar_recordings"]])
        tars = [Path(tar) for tar in facts["tars"]]
        return cls(tars, facts["sample_rate"], facts["speakers"], records, shard_start, is_mapped=content is None)

    def key(self, i: int) -> str:
        """The key of recording ``i``."""
        key: bytes = self.records["key"][i]
        return key.decode(errors="replace")


def _check_records(path: Path, records: np.ndarray, facts: dict[str, Any]) -> None:
    """Refuse a table of other columns, or with numbers that lie beyond the tars and lists of the facts.

    Raises:
        RecipeError: it is one.
    """
    columns = [("speaker", "<i4"), ("shard", "<i4"), *_ROW_COLUMNS]
    is_right = (
        records.shape == (facts["num_recordings"],)
        and records.dtype.names == ("key", *(name for name, _ in columns))
        and records.dtype["key"].kind == "S"
        and all(records.dtype[name] == kind for name, kind in columns)
    )
    if is_right and len(records):
        shard, num_bytes = records["shard"], records["num_bytes"]
        is_right = (
            bool((np.diff(shard) >= 0).all())
            and 0 <= shard[0] <= shard[-1] < len(facts["tars"])
            and np.bincount(shard, minlength=len(facts["tars"])).tolist() == facts["tar_recordings"]
            and 0 <= records["speaker"].min() <= records["speaker"].max() < len(facts["speakers"])
            and min(records[name].min() for name in ("offset", "num_bytes", "num_samples")) >= 0
            and bool((records["offset"] <= np.array(facts["tar_bytes"])[shard] - num_bytes).all())
            and bool((records["header_bytes"] <= num_bytes).all())
        )
    if not is_right:
        raise RecipeError(
            f"{path}: its columns or numbers are not those of {path.with_suffix('.json').name} beside it: damaged or "
            "edited; it is made from the lists beside the tars, without packing the audio again: run stage 2 again "
            "(run.sh --stage 2)"
        )


def packed_digest(set_dir: Path) -> str:
    """A SHA-256, in hexadecimal, of what a packed set holds: keys, speakers, audio, and their order.

    The same whenever and wherever the same audio was packed; from the index alone, so in no time.

    Raises:
        RecipeError: the set is not packed, or its index is damaged or of other tars.
    """
    facts, _ = _facts(SetFolder(set_dir).shard_list)
    held = {name: facts[name] for name in ("sample_rate", "speakers", "records_sha256")}
    return hashlib.sha256(canonical(held)).hexdigest()


def write_index(shard_list: Path, shards: Iterable[tuple[Path, Iterator[IndexRow]]]) -> None:
    """Write the index that belongs to ``shard_list``, whose tars are complete, from their rows in turn.

    Raises:
        RecipeError: no recordings, a tar shorter than its rows say, a key that stands twice, sample rates that differ.
    """
    remove_index(shard_list)
    store_index(shard_list, *_build(shard_list, shards))


def _build(shard_list: Path, shards: Iterable[tuple[Path, Iterator[IndexRow]]]) -> tuple[dict[str, Any], bytes]:
    """The facts of an index, and the content of its table's file."""
    tars: list[Path] = []
    keys: list[bytes] = []
    numbers: list[tuple[int, ...]] = []
    # One string a speaker, not one an utterance.
    speakers: dict[str, int] = {}
    speaker_of: list[int] = []
    first_of_rate: dict[int, str] = {}
    for shard, (tar, rows) in enumerate(shards):
        tars.append(tar)
        end = 0
        for row in rows:
            keys.append(row.key.encode())
            speaker_of.append(speakers.setdefault(row.speaker, len(speakers)))
            numbers.append((shard, *(getattr(row, name) for name, _ in _ROW_COLUMNS)))
            first_of_rate.setdefault(row.sample_rate, row.key)
            end = row.offset + row.num_bytes
        if tar.stat().st_size < end:
            raise RecipeError(
                f"{tar}: {tar.stat().st_size} bytes, but its index goes up to byte {end}: the tar is truncated or "
                "the index is of another packing; remove both and pack again (run.sh --stage 2)"
            )
    if len(first_of_rate) != 1:
        found = ", ".join(f"{rate} Hz (e.g. {key})" for rate, key in sorted(first_of_rate.items())) or "none at all"
        raise RecipeError(f"{shard_list}: sample rates {found}, expected exactly one; pack its audio at one rate")
    if len(set(keys)) != len(keys):
        raise RecipeError(f"{shard_list}: some keys stand twice; keys must be unique; pack again")
    if (longest := max(keys, key=len)) and len(longest) > _MOST_KEY_BYTES:
        raise RecipeError(
            f"{shard_list}: the key {shown(longest)} has {len(longest):,} bytes, expected at most {_MOST_KEY_BYTES:,}, "
            "which each recording takes in the index; rename it"
        )
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
    buffer = io.BytesIO()
    np.save(buffer, records)
    content = buffer.getvalue()
    facts = {
        "version": VERSION,
        "sample_rate": next(iter(first_of_rate)),
        "num_recordings": len(keys),
        "tars": [str(tar) for tar in tars],
        "tar_recordings": np.bincount(records["shard"], minlength=len(tars)).tolist(),
        "tar_bytes": [tar.stat().st_size for tar in tars],
        TAR_TIMES: tar_times(tars),
        "speakers": names,
        "records_sha256": hashlib.sha256(content).hexdigest(),
    }
    return facts, content


def _facts(shard_list: Path) -> tuple[dict[str, Any], bytes | None]:
    """The facts, and the table's content if it is not in its file."""
    tars = read_shard_list(shard_list)
    packed_here = any(index_path(tar).is_file() for tar in tars)
    found = read_facts(facts_path(shard_list))
    if packed_here or ("tar_recordings" in found and _TAR_STAMPS not in found):
        return compared_facts(shard_list), None
    stamps = [_stamp(shard_list, tar) for tar in tars]
    with one_process(shard_list):
        with contextlib.suppress(RecipeError):
            facts = checked_facts(shard_list)
            if facts.get(_TAR_STAMPS) == stamps:
                check_table(shard_list, facts)
                return facts, None
        key = (shard_list.resolve(), str(stamps))
        if key not in _in_memory:
            facts, content = _scan(shard_list, tars, stamps)
            try:
                claim(shard_list.parent, index_paths(shard_list))
                store_index(shard_list, facts, content)
                return facts, None
            except (OSError, RecipeError) as error:
                logger.info("%s: its index is kept in memory (%s)", shard_list, error)
                _in_memory[key] = facts, content
        return _in_memory[key]


def _scan(shard_list: Path, tars: Sequence[Path], stamps: list[list[int]]) -> tuple[dict[str, Any], bytes]:
    """Index tars that another program has packed."""
    read = counted(len(tars), "tar is read once to index it", "tars are read once to index them")
    logger.info("%s: packed by another program; its %s", shard_list, read)
    bar = Progress(tars, desc=f"index {shard_list.parent.name}", unit="tar")
    facts, content = _build(shard_list, ((tar, scan_tar(tar)) for tar in bar))
    slow = int((np.load(io.BytesIO(content), allow_pickle=False)["coding"] == Coding.WHOLE).sum())
    if slow:
        of = f"of {facts['num_recordings']} recordings"
        logger.warning(
            "%s: %s neither 16-bit mono WAV nor 16-bit mono FLAC: all of such a recording is "
            "decoded for each chunk of it, which is slow; packing (run.sh --stage 2) mends that",
            shard_list,
            counted(slow, f"{of} is", f"{of} are"),
        )
    return facts | {_TAR_STAMPS: stamps}, content


def _stamp(shard_list: Path, tar: Path) -> list[int]:
    if not tar.is_file():
        found = found_at(tar) if os.path.lexists(tar) else "which does not exist"
        raise RecipeError(
            f"{shard_list}: names {tar}, {found} (current directory {Path.cwd()}); start from the folder "
            "where the audio was packed, or write the list again"
        )
    status = tar.stat()
    return [status.st_size, status.st_mtime_ns]
