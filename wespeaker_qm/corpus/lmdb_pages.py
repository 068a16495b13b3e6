"""Are the pages of an LMDB what LMDB takes them for? It maps its file and trusts it: a damaged one ends the process.

::

    page = number | flags | lower, upper | offsets of nodes ... | free | ... nodes
    the first two describe the tree (the newer one counts); branch -> branch -> leaf -> pages of a large value

The layout is that of ``struct MDB_page``, ``MDB_node`` and ``MDB_meta`` of LMDB 0.9 (mdb.c) on machines of 64 bits
whose numbers begin with their lowest byte. Of values no byte is read.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

from wespeaker_qm.utils.errors import RecipeError

_TREE = "IHHQQQQQ"
_META = struct.Struct(f"<QHHI IIQQ {_TREE} {_TREE} QQ")
_PAGE = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _META_PAGE, _DIRTY = 1, 2, 8, 16
_BIG = 1
"""Flag of a node whose value is in pages of its own."""
_NO_PAGE = 2**64 - 1
_MOST_LEVELS, _MOST_KEY_BYTES = 32, 511


class _Tree(NamedTuple):
    transaction: int
    page_bytes: int
    flags: int
    depth: int
    root: int
    last_page: int


def refuse_damaged_pages(data: Path) -> None:
    """Refuse an LMDB that its library could not read to the end.

    Args:
        data: its ``data.mdb``.

    Raises:
        RecipeError: it is none, of another kind than keys with a value each, truncated, or a page or node is damaged.
    """
    with data.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        tree = _newest(data, file.fileno())
        expected = tree.page_bytes * (tree.last_page + 1)
        if num_bytes < expected:
            raise RecipeError(f"{data}: {num_bytes:,} bytes, expected at least {expected:,}: truncated; copy it again")
        if tree.flags:
            raise RecipeError(
                f"{data}: an LMDB of another kind (flags {tree.flags:#x}), expected keys in their order with a value "
                "each; write it again as WeSpeaker does"
            )
        if tree.root != _NO_PAGE and not _is_sound(file.fileno(), tree):
            raise RecipeError(f"{data}: damaged, its pages are no tree of keys and values; copy it again")


def _newest(data: Path, file: int) -> _Tree:
    """What the newer of the first two pages says."""
    first = _described(data, os.pread(file, _META.size, 0))
    second = _described(data, os.pread(file, _META.size, first.page_bytes))
    if second.page_bytes != first.page_bytes:
        raise RecipeError(f"{data}: damaged, its pages have two sizes; copy it again")
    return first if first.transaction >= second.transaction else second


def _described(data: Path, content: bytes) -> _Tree:
    if len(content) == _META.size:
        _, _, flags, _, magic, version, _, _, *trees, last_page, transaction = _META.unpack(content)
        page_bytes, (tree_flags, depth), root = trees[0], trees[9:11], trees[15]
        is_size = 256 <= page_bytes <= 1 << 16 and page_bytes & (page_bytes - 1) == 0
        if flags & _META_PAGE and (magic, version) == (_MAGIC, _VERSION) and is_size:
            return _Tree(transaction, page_bytes, tree_flags, depth, root, last_page)
    raise RecipeError(f"{data}: not an LMDB, or one of another version; expected a folder with data.mdb of LMDB 0.9")


def _is_sound(file: int, tree: _Tree) -> bool:
    """Whether each page below the root is a page of its level, once, and all that it points to lies within."""
    if not 1 <= tree.depth <= _MOST_LEVELS:
        return False
    left = [(tree.root, tree.depth)]
    seen: set[int] = set()
    while left:
        number, level = left.pop()
        if number in seen or not 1 < number <= tree.last_page:
            return False
        seen.add(number)
        page = os.pread(file, tree.page_bytes, number * tree.page_bytes)
        own, _, flags, lower, upper = _PAGE.unpack_from(page)
        fewest, kind = (1, _LEAF) if level == 1 else (2, _BRANCH)
        if own != number or flags & ~_DIRTY != kind or lower % 2:
            return False
        if not _PAGE.size + 2 * fewest <= lower <= upper <= len(page):
            return False
        for (offset,) in struct.iter_unpack("<H", page[_PAGE.size : lower]):
            if not upper <= offset <= len(page) - _NODE.size:
                return False
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, offset)
            value = offset + _NODE.size + key_bytes
            if key_bytes > _MOST_KEY_BYTES:
                return False
            if level > 1:
                left.append((low | high << 16 | node_flags << 32, level - 1))
                size = 0
            elif node_flags == _BIG and value + _NUMBER.size <= len(page):
                (first,) = _NUMBER.unpack_from(page, value)
                last = first + (_PAGE.size + (low | high << 16) - 1) // tree.page_bytes
                if not 1 < first <= last <= tree.last_page:
                    return False
                size = _NUMBER.size
            elif node_flags == 0 and key_bytes:
                size = low | high << 16
            else:
                return False
            if value + size > len(page):
                return False
    return True
