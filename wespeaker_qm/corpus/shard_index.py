"""Where every recording of a packed set lies: one table, mapped into memory, for a million recordings as for ten.

::

    data/mini/train/shard.list         one tar path a line
                   /shard.index.npy    one record a recording, in the order of the tars
                   /shard.index.json   sample rate, tars with their sizes, speaker names; written last

A process that maps the table holds only the pages that it looks at, and shares them with every other process. Made by
packing from the lists beside the tars (:mod:`wespeaker_qm.corpus.shards`).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import atomic_path, write_text

_VERSION = 2


class IndexRow(NamedTuple):
    """One recording; ``offset`` and ``num_bytes`` are those of the audio file inside its tar."""

    key: str
    speaker: str
    is_flac: bool
    offset: int
    num_bytes: int
    sample_rate: int
    num_samples: int


@dataclass(frozen=True)
class ShardIndex:
    """The recordings of a packed set.

    Attributes:
        tars: in the order of ``shard.list``.
        sample_rate: of all recordings, in Hz.
        speaker_names: sorted; a record's ``speaker`` is a position in it.
        records: (N,) with the fields ``key`` (UTF-8 bytes), ``speaker``, ``shard`` (a position in ``tars``),
            ``is_flac``, ``offset``, ``num_bytes`` and ``num_samples``; mapped from the file.
        shard_start: (number of tars + 1,) the first record of each tar, and N.
    """

    tars: list[Path]
    sample_rate: int
    speaker_names: list[str]
    records: np.ndarray
    shard_start: np.ndarray

    @classmethod
    def load(cls, shard_list: Path) -> "ShardIndex":
        """Map the index beside ``shard_list``.

        Raises:
            RecipeError: a list, tar or index is missing, or they do not belong together.
        """
        tars = read_shard_list(shard_list)
        facts = _read_facts(shard_list)
        if facts is None:
            raise RecipeError(
                f"{_facts_path(shard_list)}: no such file, or of another version; it is made from the lists beside "
                "the tars in seconds: run stage 2 again (run.sh --stage 2)"
            )
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
            raise RecipeError(
                f"{shard_list}: names other tars than {_facts_path(shard_list).name} beside it; pack again "
                "(run.sh --stage 2)"
            )
        # As a plain array: every access to a memmap makes a new one, which takes longer than the access.
        records = np.load(_records_path(shard_list), mmap_mode="r").view(np.ndarray)
        if len(records) != facts["num_recordings"]:
            raise RecipeError(
                f"{_records_path(shard_list)}: {len(records)} recordings, expected {facts['num_recordings']}; "
                "pack again (run.sh --stage 2)"
            )
        shard_start = np.cumsum([0, *facts["tar_recordings"]])
        return cls(tars, facts["sample_rate"], facts["speakers"], records, shard_start)

    def key(self, i: int) -> str:
        """The key of recording ``i``."""
        key: bytes = self.records["key"][i]
        return key.decode()


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
    numbers: list[tuple[int, int, int, int, bool]] = []
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
            numbers.append((shard, row.offset, row.num_bytes, row.num_samples, row.is_flac))
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
    records = np.empty(
        len(keys),
        dtype=[
            ("key", f"S{max(len(key) for key in keys)}"),
            ("speaker", "<i4"),
            ("shard", "<i4"),
            ("is_flac", "?"),
            ("offset", "<i8"),
            ("num_bytes", "<i8"),
            ("num_samples", "<i8"),
        ],
    )
    table = np.array(numbers, dtype=np.int64)
    for column, name in enumerate(("shard", "offset", "num_bytes", "num_samples", "is_flac")):
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
    }
    write_text(_facts_path(shard_list), json.dumps(facts, ensure_ascii=False, indent=0))


def remove_index(shard_list: Path) -> None:
    """Remove the index of ``shard_list``, if there is one."""
    for path in (_facts_path(shard_list), _records_path(shard_list)):
        path.unlink(missing_ok=True)


def index_is_current(shard_list: Path, tars: Sequence[Path]) -> bool:
    """Whether the index beside ``shard_list`` is that of these tars, as large as they are now."""
    facts = _read_facts(shard_list)
    return (
        facts is not None
        and _records_path(shard_list).is_file()
        and facts["tars"] == [str(tar) for tar in tars]
        and facts["tar_bytes"] == [tar.stat().st_size if tar.is_file() else -1 for tar in tars]
    )


def _records_path(shard_list: Path) -> Path:
    return shard_list.with_suffix(".index.npy")


def _facts_path(shard_list: Path) -> Path:
    return shard_list.with_suffix(".index.json")


def _read_facts(shard_list: Path) -> dict[str, Any] | None:
    """The facts; None where they are missing or of another version."""
    path = _facts_path(shard_list)
    if not path.is_file() or not _records_path(shard_list).is_file():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    return facts if facts.get("version") == _VERSION else None
