"""pydantic's complaints in the words of the person who wrote the YAML."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from wespeaker_qm.config.schema import Config, InconsistentError

EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dataclass_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
"""What a pydantic error type asks for, in YAML's words."""


def explain(detail: Any, merged: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """One line of an error message: where the value came from, its key, what was found and what is expected."""
    project_type = _project_type(merged)
    names = [str(name) for name in detail["loc"]]
    if names[:1] == ["projection_args"] and names[1:2] == [project_type]:
        del names[1]  # pydantic puts the tag of the chosen loss into the path
    key = ".".join(names)
    reason = detail.get("ctx", {}).get("error")
    if isinstance(reason, InconsistentError):
        keys = [".".join([*names, name]) for name in reason.keys]
        sources = dict.fromkeys(_origin(name, origins) for name in keys)
        return f"{' and '.join(sources)}: {keys[0]}: {reason.message}"
    source = _origin(key, origins)
    kind = detail["type"]
    if kind == "unexpected_keyword_argument":
        return f"{source}: {key}: unknown key; {_suggest(key, project_type)}"
    if kind == "missing":
        of_loss = f" (project_type {project_type} needs it)" if names[0] == "projection_args" else ""
        return f"{source}: {key}: missing, expected a value{of_loss}"
    if kind == "union_tag_not_found":
        return f"{source}: {key}.project_type: missing, expected one of {', '.join(_losses())}"
    if kind == "union_tag_invalid":
        key = f"{key}.project_type"
        near = difflib.get_close_matches(str(project_type), list(_losses()), n=2, cutoff=0.4)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        return f"{_origin(key, origins)}: {key}: found {project_type!r}, expected one of {', '.join(_losses())}{hint}"
    expected = EXPECTED.get(kind, detail["msg"].removeprefix("Input should be "))
    if kind == "literal_error" and expected in {"True", "False"}:
        expected = f"{expected.lower()}, the only value offered"
    return f"{source}: {key}: found {show(detail['input'])}, expected {expected}"


def _project_type(merged: Mapping[str, Any]) -> Any:
    projection = merged.get("projection_args")
    return projection.get("project_type") if isinstance(projection, dict) else None


def _losses() -> dict[str, Any]:
    """Project type -> dataclass of its arguments."""
    hint = typing.get_type_hints(Config, include_extras=True)["projection_args"]
    return {
        typing.get_args(typing.get_type_hints(member)["project_type"])[0]: member for member in _dataclasses_of(hint)
    }


def _suggest(key: str, project_type: Any) -> str:
    """The valid names nearest to an unknown key."""
    section, _, name = key.rpartition(".")
    if section == "projection_args":
        owners = [
            loss for loss, member in _losses().items() if name in {field.name for field in dataclasses.fields(member)}
        ]
        valid = [field.name for field in dataclasses.fields(_losses()[project_type])]
        belongs = f"it belongs to {', '.join(owners)}; " if owners else ""
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        return belongs + (f"nearest: {', '.join(near)}; " if near else "") + f"{project_type} has {', '.join(valid)}"
    every = schema_keys()
    prefix = f"{section}." if section else ""
    siblings = [other.removeprefix(prefix) for other in every if other.startswith(prefix)]
    siblings = [other for other in siblings if "." not in other]
    elsewhere = [other for other in every if other.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, siblings, n=3, cutoff=0.6)
    found = elsewhere + [prefix + other for other in near]
    if found:
        return f"nearest valid names: {', '.join(found)}"
    return f"valid names here: {', '.join(siblings) or 'none'}"


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
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{shown} ({kinds.get(type(value), type(value).__name__)})"


def schema_keys(section: Any = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, sections and leaves; ``projection_args`` has the keys of all its losses.

    >>> [key for key in schema_keys() if key.endswith("alpha")]
    ['projection_args.alpha']
    """
    keys: dict[str, None] = {}
    for dataclass_type in _dataclasses_of(section):
        hints = typing.get_type_hints(dataclass_type)
        for field in dataclasses.fields(dataclass_type):
            keys[prefix + field.name] = None
            keys.update(dict.fromkeys(schema_keys(hints[field.name], f"{prefix}{field.name}.")))
    return list(keys)


def _dataclasses_of(hint: Any) -> list[Any]:
    """The dataclasses in a type: itself, or the members of a union."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [member for member in members if dataclasses.is_dataclass(member)]
