"""The two files of an index, and whether they are whole and belong to the tars.

``shard.index.json`` (the facts) holds the SHA-256 of ``shard.index.npy`` (the table) and of its own other entries. That
the tars still hold what the table says is known by their times: one that was changed, copied or restored since is read
once and compared, record by record.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wespeaker_qm.packing.format import read_shard_list
from wespeaker_qm.utils.errors import RecipeError, found_at
from wespeaker_qm.utils.files import atomic_path, sha256_of, write_text
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.text import json_or_none

logger = logging.getLogger(__name__)

VERSION = 3
_SEAL = "sha256"
_VALUES = {"sample_rate": int, "num_recordings": int, "records_sha256": str}
_LISTS = {"tars": str, "tar_recordings": int, "tar_bytes": int, "speakers": str}
_MOST = 2**31
"""Of recordings, and of samples a second."""
TAR_TIMES = "tar_times"
# Lists whose tars, of these times, this process has compared, in folders where that cannot be written down.
_compared: set[tuple[Path, tuple[int, ...]]] = set()


def index_paths(shard_list: Path) -> list[Path]:
    """The files of the index of ``shard_list``."""
    return [facts_path(shard_list), records_path(shard_list)]


def records_path(shard_list: Path) -> Path:
    """The table."""
    return shard_list.with_suffix(".index.npy")


def facts_path(shard_list: Path) -> Path:
    """The facts."""
    return shard_list.with_suffix(".index.json")


def remove_index(shard_list: Path) -> None:
    """Remove the index of ``shard_list``, if there is one."""
    for path in index_paths(shard_list):
        path.unlink(missing_ok=True)


def store_index(shard_list: Path, facts: dict[str, Any], content: bytes) -> None:
    """Write the table, whose file has ``content``, and then the facts."""
    with atomic_path(records_path(shard_list)) as temporary:
        temporary.write_bytes(content)
    _write_facts(shard_list, facts)


def _write_facts(shard_list: Path, facts: dict[str, Any]) -> None:
    sealed = facts | {_SEAL: hashlib.sha256(canonical(facts)).hexdigest()}
    write_text(facts_path(shard_list), json.dumps(sealed, ensure_ascii=False, indent=0))


def index_is_current(shard_list: Path, tars: Sequence[Path]) -> bool:
    """Whether the index beside ``shard_list`` is whole and that of these tars, which hold what it says."""
    try:
        facts = compared_facts(shard_list)
        check_table(shard_list, facts)
    except RecipeError:
        return False
    return bool(facts["tars"] == [str(tar) for tar in tars])


def damaged_tars(shard_list: Path) -> dict[Path, str]:
    """Tar -> key of a recording in it that is not the one that was packed.

    Only tars whose time has changed since they were last compared are read. Empty where there is no whole index to
    compare them with.
    """
    try:
        facts = checked_facts(shard_list)
        check_table(shard_list, facts)
    except RecipeError:
        return {}
    known = facts.get(TAR_TIMES) or []
    tars = [Path(tar) for tar in facts["tars"]]
    touched = [shard for shard, time in enumerate(tar_times(tars)) if known[shard : shard + 1] != [time]]
    records = mapped_table(records_path(shard_list))
    shard_start = np.cumsum([0, *facts["tar_recordings"]])
    damaged = {}
    for shard in Progress(touched, desc=f"compare {shard_list.parent.name}", unit="tar", show=bool(touched)):
        with tars[shard].open("rb") as file:
            for record in records[shard_start[shard] : shard_start[shard + 1]]:
                file.seek(record["offset"])
                if zlib.crc32(file.read(record["num_bytes"])) != record["crc32"]:
                    damaged[tars[shard]] = record["key"].decode()
                    break
    return damaged


def compared_facts(shard_list: Path) -> dict[str, Any]:
    """The facts of an index that is whole, and whose tars hold what it says.

    Raises:
        RecipeError: a list, tar or index is missing or damaged, or they do not belong together.
    """
    facts = checked_facts(shard_list)
    times = tar_times(map(Path, facts["tars"]))
    key = (shard_list.resolve(), tuple(times))
    if facts.get(TAR_TIMES) == times or key in _compared:
        return facts
    with one_process(shard_list):  # of several processes one compares
        facts = checked_facts(shard_list)
        if facts.get(TAR_TIMES) == times:
            return facts
        check_table(shard_list, facts)
        logger.info("%s: tars were changed or copied since they were packed: compared with the index once", shard_list)
        for tar, recording in damaged_tars(shard_list).items():
            raise RecipeError(
                f"{tar}: the audio of {recording} is another than the one that was packed (CRC-32): the tar is damaged "
                "or edited; pack again, which replaces it (run.sh --stage 2)"
            )
        facts[TAR_TIMES] = times
        try:
            _write_facts(shard_list, facts)
        except (OSError, RecipeError):  # a folder that is only to be read
            _compared.add(key)
    return facts


def checked_facts(shard_list: Path) -> dict[str, Any]:
    """The facts of an index that is whole and belongs to the tars of ``shard_list``, which are as large as it says."""
    tars = read_shard_list(shard_list)
    path = facts_path(shard_list)
    facts = read_facts(path)
    if facts.get("version") != VERSION or not records_path(shard_list).is_file():
        lost = next((each for each in (path, records_path(shard_list)) if not each.is_file()), path)
        found = "of another version" if lost.is_file() else found_at(lost)
        raise RecipeError(
            f"{lost}: {found}; it is made from the lists beside the tars, without packing "
            "the audio again: run stage 2 again (run.sh --stage 2)"
        )
    if facts.pop(_SEAL, None) != hashlib.sha256(canonical(facts)).hexdigest():
        raise _damaged(path, "it has another SHA-256 than when it was written")
    if not _is_complete(facts):
        raise _damaged(path, "entries are missing, or are not what packing writes")
    for tar, name, num_bytes in zip(tars, facts["tars"], facts["tar_bytes"], strict=False):
        if str(tar) != name:
            break
        if not tar.is_file():
            found = found_at(tar) if os.path.lexists(tar) else "which does not exist"
            raise RecipeError(
                f"{shard_list}: names {tar}, {found} (current directory {Path.cwd()}); "
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


def _is_complete(facts: dict[str, Any]) -> bool:
    """Whether all entries are there that readers rely on, each of its kind."""
    lists = [facts.get(name) for name in _LISTS]
    if not all(type(facts.get(name)) is kind for name, kind in _VALUES.items()):
        return False
    if not all(
        isinstance(each, list) and all(type(item) is kind for item in each)
        for each, kind in zip(lists, _LISTS.values(), strict=True)
    ):
        return False
    counts = facts["tar_recordings"]
    return (
        len(facts["tars"]) == len(counts) == len(facts["tar_bytes"])
        and all(0 <= count < _MOST for count in counts)
        and sum(counts) == facts["num_recordings"]
        and 0 < facts["sample_rate"] < _MOST
    )


def read_facts(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where that is no index."""
    facts = json_or_none(path)
    return facts if isinstance(facts, dict) else {}


def canonical(facts: dict[str, Any]) -> bytes:
    """The facts as the bytes whose SHA-256 is taken."""
    return json.dumps(facts, sort_keys=True).encode()


def mapped_table(path: Path) -> np.ndarray:
    """The table, mapped: as a plain array, since every access to a memmap makes a new one, which takes longer.

    Raises:
        RecipeError: it is no such table.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except Exception as error:  # also of an array of objects, which would have to be unpickled
        raise _damaged(path, str(error)) from error


def check_table(shard_list: Path, facts: dict[str, Any]) -> None:
    """Raise RecipeError where the table is not the one that the facts were written with."""
    path = records_path(shard_list)
    if sha256_of(path) != facts["records_sha256"]:
        raise _damaged(path, "its content has another SHA-256 than when it was written")


@contextlib.contextmanager
def one_process(shard_list: Path) -> Iterator[None]:
    """Of several processes that open the same tars, one indexes them. A list that is only to be read serves as lock."""
    with shard_list.open("rb") as file:
        with contextlib.suppress(OSError):  # a file system without locks: each indexes them
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tar_times(tars: Iterable[Path]) -> list[int]:
    """When each tar was changed last, in ns."""
    return [tar.stat().st_mtime_ns for tar in tars]


def _damaged(path: Path, found: str) -> RecipeError:
    return RecipeError(
        f"{path}: damaged or edited ({found}); it is made from the lists beside the tars, without packing the audio "
        "again: run stage 2 again (run.sh --stage 2)"
    )
