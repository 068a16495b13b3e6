"""pydantic's complaints in the words of the person who wrote the YAML."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from wespeaker_qm.config.fields import ChosenBy, InconsistentError
from wespeaker_qm.config.loss import LOSSES
from wespeaker_qm.config.model import MODELS
from wespeaker_qm.config.schema import Config
from wespeaker_qm.config.wespeaker import NOTED, ONLY_VALUES, SOFTMAX
from wespeaker_qm.utils.errors import shown

EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "text that is not empty, or null",
    "dataclass_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "list_type": "a list",
}
"""What a pydantic error type asks for, in YAML's words."""


CHOICES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "model_args": ("model", MODELS),
    "projection_args": ("projection_args.project_type", LOSSES),
}
"""Section whose keys depend on a name -> the key of that name, and the dataclass of each name."""


def explain(detail: Any, merged: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """One line of an error message: where the value came from, its key, what was found and what is expected."""
    names = [str(name) for name in detail["loc"]]
    key = ".".join(names)
    context = detail.get("ctx", {})
    reason = context.get("error")
    if isinstance(reason, InconsistentError):
        keys = [".".join([*names, name]) for name in reason.keys]
        sources = dict.fromkeys(_origin(name, origins) for name in keys)
        return f"{' and '.join(sources)}: {keys[0]}: {reason.message}"
    source = _origin(key, origins)
    kind = detail["type"]
    if kind == "unexpected_keyword_argument" and (only := _only_value(key)):
        return f"{source}: {key}: found {show(detail['input'])}, expected {only}, the only value offered"
    if kind == "unexpected_keyword_argument" and key in NOTED:
        return f"{source}: {key}: no effect, WeSpeaker's train.py notes it of its own run; leave it out"
    if kind == "unexpected_keyword_argument":
        return f"{source}: {key}: unknown key; {_suggest(key, merged)}"
    if kind == "missing":
        name = _chosen(names[0], merged)
        needed = f" ({CHOICES[names[0]][0].rpartition('.')[2]} {name} needs it)" if name is not None else ""
        needed += f"; {SOFTMAX}" if name == "softmax" else ""
        return f"{source}: {key}: missing, expected a value{needed}"
    if kind == "name_missing":
        return f"{source}: {key}.{context['key']}: missing, expected one of {', '.join(context['names'])}"
    if kind == "unknown_name":
        key = ".".join([*names, *([context["key"]] if context["key"] else [])])
        near = difflib.get_close_matches(str(context["found"]), context["names"], n=2, cutoff=0.4)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        expected = ", ".join(context["names"])
        return f"{_origin(key, origins)}: {key}: found {shown(context['found'])}, expected one of {expected}{hint}"
    expected = EXPECTED.get(kind, detail["msg"].removeprefix("Input should be "))
    if kind == "literal_error" and expected in {"True", "False"}:
        expected = f"{expected.lower()}, the only value offered"
    return f"{source}: {key}: found {show(detail['input'])}, expected {expected}"


def _only_value(key: str) -> str:
    """What a key, or the keys of a section, must be; empty where WeSpeaker's files have no such key."""
    inside = {name.removeprefix(f"{key}."): only for name, only in ONLY_VALUES.items() if name.startswith(f"{key}.")}
    if inside:
        return ", ".join(f"{name} {_text(only)}" for name, only in inside.items())
    return _text(ONLY_VALUES[key]) if key in ONLY_VALUES else ""


def _chosen(section: str, merged: Mapping[str, Any]) -> str | None:
    """The name that decides which keys a section has; None where none is given, or none decides."""
    if section not in CHOICES:
        return None
    *sections, name = CHOICES[section][0].split(".")
    for each in sections:
        merged = merged.get(each, {})
    return str(merged.get(name, getattr(Config, name, None)))


def _suggest(key: str, merged: Mapping[str, Any]) -> str:
    """The valid names nearest to an unknown key."""
    section, _, name = key.rpartition(".")
    elsewhere = [other for other in schema_keys() if other.rpartition(".")[2] == name]
    if section in CHOICES:
        chosen = _chosen(section, merged)
        members = {member: _fields(arguments) for member, arguments in CHOICES[section][1].items()}
        owners = [member for member, fields in members.items() if name in fields]
        near = difflib.get_close_matches(name, members[str(chosen)], n=3, cutoff=0.5)
        belongs = f"it belongs to {', '.join(owners or elsewhere)}; " if owners or elsewhere else ""
        nearest = f"nearest: {', '.join(near)}; " if near else ""
        return f"{belongs}{nearest}{chosen} has {', '.join(members[str(chosen)])}"
    prefix = f"{section}." if section else ""
    siblings = [other.removeprefix(prefix) for other in schema_keys() if other.startswith(prefix)]
    siblings = [other for other in siblings if "." not in other]
    near = difflib.get_close_matches(name, siblings, n=3, cutoff=0.6)
    found = elsewhere + [prefix + other for other in near]
    if found:
        return f"nearest valid names: {', '.join(found)}"
    return f"valid names here: {', '.join(siblings) or 'none'}"


def _fields(arguments: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(arguments)]


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """The file (or command line) that set ``key``, or else the nearest section around it."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "defaults"


def show(value: Any) -> str:
    """A value with its YAML type, for messages."""
    kinds = {bool: "true/false", int: "integer", float: "number", str: "text", list: "list", dict: "mapping"}
    if value is None:
        return "null"
    text = _text(value) if isinstance(value, bool) else shown(value)
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def schema_keys(section: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, sections and leaves; where a name chooses the keys, those of all choices.

    >>> [key for key in schema_keys() if key.endswith("alpha")]
    ['projection_args.alpha']
    """
    keys: dict[str, None] = {}
    for dataclass_type in _dataclasses_of(section):
        hints = typing.get_type_hints(dataclass_type, include_extras=True)
        for field in dataclasses.fields(dataclass_type):
            keys[prefix + field.name] = None
            keys.update(dict.fromkeys(schema_keys(hints[field.name], f"{prefix}{field.name}.")))
    return list(keys)


def _dataclasses_of(hint: Any) -> list[Any]:
    """The dataclasses of a type: itself, or those that a name chooses from."""
    if typing.get_origin(hint) is Annotated:
        choices = [extra for extra in typing.get_args(hint)[1:] if isinstance(extra, ChosenBy)]
        return list(choices[0].table.values()) if choices else []
    return [hint] if dataclasses.is_dataclass(hint) else []
