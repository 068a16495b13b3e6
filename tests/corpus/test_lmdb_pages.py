"""Damaged LMDBs are refused before LMDB looks at them, which would end the process."""

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from wespeaker_qm.audio.source import AudioError
from wespeaker_qm.corpus.archives import _open_lmdb, list_lmdb, read_member
from wespeaker_qm.corpus.lmdb_pages import refuse_damaged_pages
from wespeaker_qm.utils.errors import RecipeError

CONTENT = {f"noise/{number:04d}.wav": bytes([number % 256]) * (number * 37 % 9000) for number in range(300)}


def write(folder: Path, content: dict[str, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for name, value in content.items():
            transaction.put(name.encode(), value)
    return folder / "data.mdb"


def read_all(folder: Path) -> dict[str, bytes]:
    _open_lmdb.cache_clear()
    try:
        return {member.name: read_member(member.locator) for member in list_lmdb(folder)}
    finally:
        if _open_lmdb.cache_info().currsize:
            _open_lmdb(str(folder)).close()
        _open_lmdb.cache_clear()


@pytest.mark.parametrize("content", [{}, {"a.wav": b"a"}, CONTENT], ids=["empty", "one page", "a tree"])
def test_sound_ones_are_read(tmp_path: Path, content: dict[str, bytes]) -> None:
    write(tmp_path / "lmdb", content)
    assert read_all(tmp_path / "lmdb") == content


def test_one_that_was_changed_and_lost_entries_is_read(tmp_path: Path) -> None:
    """Its newest description is the first or the second page, and free pages hold what was there before."""
    write(tmp_path / "lmdb", CONTENT)
    for number in range(3):
        with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 24) as database, database.begin(write=True) as transaction:
            for name in list(CONTENT)[number::5]:
                transaction.delete(name.encode())
        left = {name: value for place, (name, value) in enumerate(CONTENT.items()) if place % 5 > number}
        assert read_all(tmp_path / "lmdb") == left


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    """Numbers in heads of pages and of nodes, and anywhere, are changed; in a child process, that would be killed."""
    path = write(tmp_path / "lmdb", CONTENT)
    sound = path.read_bytes()
    heads = [struct.unpack_from("<QHH", sound, page) for page in range(0, len(sound), 4096)]
    pages = [4096 * place for place, (number, _, kind) in enumerate(heads) if number == place and kind in (1, 2, 8)]
    child = os.fork()
    if child == 0:
        draw = random.Random(3)
        refused = 0
        for _ in range(200):
            content = bytearray(sound)
            for _ in range(draw.randrange(1, 4)):
                place = draw.choice(pages) + (draw.randrange(4090) if draw.random() < 0.5 else draw.randrange(160))
                value = draw.choice([0, 1, 2, 255, 4095, 4096, 0xFFFF, draw.randrange(1 << 16)])
                content[place : place + 2] = struct.pack("<H", value)
            path.write_bytes(content)
            try:
                read_all(path.parent)
            except (RecipeError, AudioError):
                refused += 1
            except BaseException:
                os._exit(3)
        os._exit(0 if 30 < refused < 200 else 4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def leaf_of(content: bytearray) -> int:
    """Where a leaf begins that is no copy of an older one."""
    return next(
        page
        for page in range(8192, len(content), 4096)
        if struct.unpack_from("<QHH", content, page) == (page // 4096, 0, 2)
    )


DAMAGES: dict[str, Callable[[bytearray], object]] = {
    "no magic": lambda content: content.__setitem__(16, 0),
    "a page of another number": lambda content: content.__setitem__(leaf_of(content), 77),
    "a page of another kind": lambda content: content.__setitem__(leaf_of(content) + 10, 4),
    "more nodes than a page": lambda content: content.__setitem__(leaf_of(content) + 13, 0xF0),
    "a node beyond the page": lambda content: content.__setitem__(leaf_of(content) + 17, 0xFF),
    "cut": lambda content: content.__delitem__(slice(len(content) - 8192, None)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_the_file(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "lmdb", {"a.wav": b"a" * 50, "b.wav": b"b" * 50_000})
    content = bytearray(path.read_bytes())
    DAMAGES[damage](content)
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"{path}: .*(copy it again|expected a folder with data\.mdb)"):
        refuse_damaged_pages(path)


def test_one_of_several_values_a_key_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "lmdb", {"a.wav": b"a"})
    content = bytearray(path.read_bytes())
    for page in (0, 4096):
        content[page + 92] = 4  # MDB_DUPSORT, of the tree of keys
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="an LMDB of another kind"):
        refuse_damaged_pages(path)
