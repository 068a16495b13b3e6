"""Dataclasses that were made of what a file of JSON says: is each value of the kind that its field declares?"""

import dataclasses
import math
import types
import typing
from typing import Any, Literal, Union

from wespeaker_qm.utils.errors import shown


def check_kinds(made: Any) -> None:
    """Compare the values of a dataclass with its annotations; numbers must be finite, and a list may be a tuple.

    Args:
        made: of fields that are plain values, lists, tuples or mappings of them, one of several, or such dataclasses.

    Raises:
        ValueError: one is something else; it is named.
    """
    for name, hint in typing.get_type_hints(type(made)).items():
        value = getattr(made, name)
        if not _is_of(value, hint):
            kind = str(getattr(hint, "__name__", hint)) if isinstance(hint, type) else str(hint)
            raise ValueError(f"{name}: found {shown(value)}, expected {kind}")


def _is_of(value: Any, hint: Any) -> bool:
    kind, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if kind is Literal:
        return value in inside
    if kind in (Union, types.UnionType):
        return any(_is_of(value, each) for each in inside)
    if kind is list:
        return isinstance(value, list) and all(_is_of(each, inside[0]) for each in value)
    if kind is tuple:
        return isinstance(value, list | tuple) and len(value) == len(inside) and all(map(_is_of, value, inside))
    if kind is dict:
        return isinstance(value, dict) and all(
            _is_of(name, inside[0]) and _is_of(each, inside[1]) for name, each in value.items()
        )
    if dataclasses.is_dataclass(value) and isinstance(value, hint):
        check_kinds(value)
        return True
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (type(None) if hint is None else hint)
