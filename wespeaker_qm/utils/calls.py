"""What functions for other people's programs take: a path as text or object, and one thing in the place of several."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from wespeaker_qm.utils.errors import RecipeError

AnyPath = str | os.PathLike[str]
"""A path, or a folder of :mod:`wespeaker_qm.utils.layout`, which stands for its path."""

Item = TypeVar("Item", str, float)


def listed(values: Item | Sequence[Item]) -> list[Item]:
    """A list of one text or number, or of several.

    >>> listed("TAR@FAR 1e-3"), listed(["EER", "minCllr"]), listed(1e-3)
    (['TAR@FAR 1e-3'], ['EER', 'minCllr'], [0.001])
    """
    return [values] if isinstance(values, str | float | int) else list(values)


def as_path(path: AnyPath) -> Path:
    """A path from text or object.

    Raises:
        RecipeError: an empty text, which pathlib takes for the current folder, and nobody means.
    """
    if path == "":
        raise RecipeError("found '' in the place of a path, expected one; the current folder is '.'")
    return Path(path)


def paths(values: AnyPath | Iterable[AnyPath]) -> list[Path]:
    """A list of one path, or of several; errors as :func:`as_path`."""
    return [as_path(values)] if isinstance(values, str | os.PathLike) else [as_path(each) for each in values]


def optional_path(path: AnyPath | None) -> Path | None:
    """A path, where there is one; errors as :func:`as_path`."""
    return None if path is None else as_path(path)
