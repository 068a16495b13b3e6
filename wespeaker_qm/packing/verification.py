"""Is packed audio still what was packed? All of it is read, whatever the times of the files say.

Each finding is a line: the file, the recording, what was found, what was expected, and what helps.
"""

import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wespeaker_qm.corpus.bad_audio import BadAudio
from wespeaker_qm.packing.format import INDEX_COLUMNS, bad_path, index_path, marker_path, read_list, read_shard_list
from wespeaker_qm.packing.index import ShardIndex
from wespeaker_qm.packing.index_files import check_table, checked_facts, records_path
from wespeaker_qm.utils.done import refuse_no_marker
from wespeaker_qm.utils.errors import RecipeError, counted, found_at, shown
from wespeaker_qm.utils.text import read_text

_PACK_AGAIN = "pack again (run.sh --stage 2)"
_BLOCK_BYTES = 1 << 20


class _Recording(NamedTuple):
    """What a tar holds, according to the list beside it, or to the index."""

    key: str
    speaker: str
    offset: int
    num_bytes: int
    num_samples: int
    crc32: int


@dataclass(frozen=True)
class PackedTar:
    """One of the tars of a packed set."""

    shard_list: Path
    tar: Path
    records: slice | np.ndarray | None
    """In the index: which, or themselves where they are kept in memory; None where that is not whole."""
    speakers: list[str]
    """Of the set, as the index numbers them."""
    sample_rate: int
    """Of the set, in Hz; 0 where the index is not whole."""


def packed_tars(shard_list: Path) -> tuple[list[PackedTar], list[str]]:
    """The tars of a set, to be verified one by one, and what is wrong with its lists and index.

    Raises:
        RecipeError: the set is not packed, or tars of another program cannot be indexed.
    """
    tars = read_shard_list(shard_list)
    lists = [index_path(tar) for tar in tars if index_path(tar).is_file()]
    old = [path for path in lists if read_text(path).startswith("\t".join(INDEX_COLUMNS[:-1]) + "\n")]
    if old:
        return [], [
            f"{old[0]}: no checksums stored, in {len(old)} of {len(lists)} lists, by an earlier version; expected one "
            "of each recording: run stage 2 (run.sh --stage 2), which reads the tars once and adds them"
        ]
    if not lists:  # of another program: an index is made where there is none, in memory if nothing can be written
        index = ShardIndex.load(shard_list)
        if not index.is_mapped:
            tables = np.split(index.records, index.shard_start[1:-1])
            of_set = index.speaker_names, index.sample_rate
            return [PackedTar(shard_list, tar, table, *of_set) for tar, table in zip(tars, tables, strict=True)], []
    faults = [
        f"{path}: {found_at(path)}, expected one beside each tar, as of {len(lists)} of {len(tars)}; "
        f"move {shard_list} away and {_PACK_AGAIN}"
        for tar in tars
        if lists and not (path := index_path(tar)).is_file()
    ]
    try:
        facts = checked_facts(shard_list)
        check_table(shard_list, facts)
    except RecipeError as error:
        return [PackedTar(shard_list, tar, None, [], 0) for tar in tars], [*faults, str(error)]
    ends = np.cumsum([0, *facts["tar_recordings"]]).tolist()
    parts = [slice(*ends[shard : shard + 2]) for shard in range(len(tars))]
    of_set = facts["speakers"], facts["sample_rate"]
    return [PackedTar(shard_list, tar, part, *of_set) for tar, part in zip(tars, parts, strict=True)], faults


def tar_findings(packed: PackedTar) -> list[str]:
    """What is wrong with a tar, the list beside it, and its part of the index; each recording is told by itself."""
    tar, has_list = packed.tar, index_path(packed.tar).is_file()
    remedy = f"remove {marker_path(tar)} and {_PACK_AGAIN}" if has_list else "make the tar again"
    if not tar.is_file():
        return [f"{tar}: {found_at(tar)}, expected a tar that {packed.shard_list} names; {remedy}"]
    findings = []
    if marker_path(tar).is_file():
        try:
            refuse_no_marker(marker_path(tar), remedy)
        except RecipeError as error:
            findings.append(str(error))
    indexed = _indexed(packed)
    recordings = indexed
    if has_list:
        try:
            recordings = _listed(tar)
        except (RecipeError, ValueError) as error:
            findings.append(str(error) if isinstance(error, RecipeError) else f"{index_path(tar)}: {error}; {remedy}")
        if packed.records is not None and recordings != indexed:
            findings += _differences(packed, recordings, indexed)
    return findings + list(_contents(tar, recordings, remedy))


def _listed(tar: Path) -> list[_Recording]:
    return [
        _Recording(key, speaker, int(offset), int(num_bytes), int(num_samples), int(crc32, 16))
        for key, speaker, _, offset, num_bytes, _, num_samples, crc32 in read_list(index_path(tar), INDEX_COLUMNS)
    ]


def _indexed(packed: PackedTar) -> list[_Recording]:
    """What the index has of a tar; nothing where that is not whole."""
    if packed.records is None:
        return []
    table = packed.records
    if isinstance(table, slice):
        table = np.load(records_path(packed.shard_list), mmap_mode="r", allow_pickle=False)[table]
    columns = ("key", "speaker", "offset", "num_bytes", "num_samples", "crc32")
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    speakers = packed.speakers
    return [_Recording(key.decode(errors="replace"), speakers[speaker], *numbers) for key, speaker, *numbers in rows]


def _differences(packed: PackedTar, listed: list[_Recording], indexed: list[_Recording]) -> Iterator[str]:
    """Where the index differs from the list, from which it was made."""
    path = records_path(packed.shard_list)
    remedy = f"remove it and {_PACK_AGAIN}, which makes it from the lists beside the tars"
    if len(listed) != len(indexed):
        yield (
            f"{path}: {counted(len(indexed), 'recording', 'recordings')} of {packed.tar}, expected "
            f"{len(listed)} as in its list; {remedy}"
        )
        return
    for found, expected in zip(indexed, listed, strict=True):
        if found != expected:
            pair = f"{shown(found, 200)}, expected {shown(expected, 200)}"
            yield f"{path}: {pair} as in the list of {packed.tar}; {remedy}"


def _contents(tar: Path, recordings: Sequence[_Recording], remedy: str) -> Iterator[str]:
    """Compare the members of a tar with what it should hold."""
    members, end = _members(tar)
    lacking = [each for each in recordings if each.offset not in members]
    if lacking:
        yield (
            f"{tar}: {lacking[0].key}: no member of the tar at byte {lacking[0].offset}, and so of {len(lacking)} of "
            f"{len(recordings)} recordings; expected one for each ({end}); {remedy}"
        )
    speakers = {member.name: member for member in members.values() if member.name.endswith(".spk")}
    with tar.open("rb") as file:
        for each in recordings:
            crc32 = _crc32(file.fileno(), each.offset, each.num_bytes)
            if crc32 != each.crc32:
                yield (
                    f"{tar}: {each.key}: the CRC-32 of its audio is {crc32:08x}, expected {each.crc32:08x}: damaged; "
                    f"{remedy}"
                )
            named = speakers.get(f"{each.key}.spk")
            if named is not None:
                # What the header claims may be more than the memory; of a longer name so much tells that it is another.
                found = os.pread(file.fileno(), min(named.size, len(each.speaker.encode()) + 100), named.offset_data)
                if found.strip() != each.speaker.encode():
                    yield f"{tar}: {each.key}: its speaker is {shown(found)}, expected {shown(each.speaker)}; {remedy}"


def _members(tar: Path) -> tuple[dict[int, tarfile.TarInfo], str]:
    """Where its content begins -> member; and where they end, in words."""
    members: dict[int, tarfile.TarInfo] = {}
    last, fault = "none", ""
    try:
        with tarfile.open(tar, "r:") as contents:
            for member in contents:
                members[member.offset_data] = member
                last = member.name
    except (tarfile.TarError, ValueError, ArithmeticError) as error:
        fault = f": {error}"
    return members, f"the last that can be found is {last}{fault}"


def _crc32(file: int, first: int, num_bytes: int) -> int:
    crc32, done = 0, 0
    while done < num_bytes and (block := os.pread(file, min(_BLOCK_BYTES, num_bytes - done), first + done)):
        crc32, done = zlib.crc32(block, crc32), done + len(block)
    return crc32


class PackedSet(NamedTuple):
    """What a packed set holds, according to its index."""

    speaker: dict[str, str]
    """Key -> speaker."""
    audio: dict[tuple[int, int], str]
    """CRC-32 and size of a recording -> its key."""
    duration_s: dict[str, float]
    """Key -> seconds."""
    left_out: set[str]
    """Keys of what packing refused and was allowed to."""


def packed_set(tars: Sequence[PackedTar]) -> PackedSet | None:
    """What the tars of one set hold; None where its index is not whole.

    Raises:
        RecipeError: a list of what was left out is damaged.
    """
    found = PackedSet({}, {}, {}, set())
    for packed in tars:
        if packed.records is None:
            return None
        for each in _indexed(packed):
            found.speaker[each.key] = each.speaker
            found.audio[each.crc32, each.num_bytes] = each.key
            found.duration_s[each.key] = each.num_samples / packed.sample_rate
        if bad_path(packed.tar).is_file():
            found.left_out.update(row[0] for row in read_list(bad_path(packed.tar), BadAudio._fields))
    return found if tars else None
