"""What functions for other people's programs take: a path as text or object, and one thing in the place of several."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

AnyPath = str | os.PathLike[str]
"""A path, or a folder of :mod:`wespeaker_qm.utils.layout`, which stands for its path."""

Item = TypeVar("Item", str, float)


def listed(values: Item | Sequence[Item]) -> list[Item]:
    """A list of one text or number, or of several.

    >>> listed("TAR@FAR 1e-3"), listed(["EER", "minCllr"]), listed(1e-3)
    (['TAR@FAR 1e-3'], ['EER', 'minCllr'], [0.001])
    """
    return [values] if isinstance(values, str | float | int) else list(values)


def paths(values: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """A list of one path, or of several."""
    return [Path(values)] if isinstance(values, str | os.PathLike) else [Path(each) for each in values]


def optional_path(path: AnyPath | None) -> Path | None:
    """A path, where there is one."""
    return None if path is None else Path(path)
