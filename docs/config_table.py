"""The directive ``config-keys``: a table of all configuration keys, made from the schema, so never out of date."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import annotated_types
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from wespeaker_qm.config.fields import OWN, ChosenBy
from wespeaker_qm.config.schema import Config


class Key(NamedTuple):
    """A row."""

    name: str
    """Dotted."""
    kind: str
    """Its type and range, in words."""
    default: str
    text: str
    """What its docstring says."""


def all_keys() -> list[Key]:
    """All keys, in the order of the schema; those of a mapping that a name chooses once for each name."""
    return list(_keys_of(Config, ""))


def _keys_of(settings: type, prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(settings, include_extras=True)
    docstrings = _docstrings(settings)
    for field in dataclasses.fields(settings):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        chosen = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, ChosenBy)), None)
        plain = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if chosen is not None:
            yield Key(name, "mapping", "", docstrings[field.name])
            offered: dict[Key, list[str]] = {}
            for choice, arguments in chosen.table.items():
                for key in _keys_of(arguments, f"{name}."):
                    offered.setdefault(key, []).append(choice)
            for key, choices in offered.items():
                is_common = len(choices) == len(chosen.table)
                yield key if is_common else key._replace(name=f"{key.name} ({', '.join(choices)})")
        elif dataclasses.is_dataclass(plain) and dataclasses.fields(plain):
            yield from _keys_of(typing.cast(type, plain), f"{name}.")
        else:
            is_own = OWN in getattr(hint, "__metadata__", ()) and "WeSpeaker" not in docstrings[field.name]
            yield Key(name, kind_of(hint), _default(field), docstrings[field.name] + " Not in WeSpeaker." * is_own)


def _docstrings(settings: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in reversed(settings.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        body = typing.cast(ast.ClassDef, tree).body
        for one, following in itertools.pairwise(body):
            if isinstance(one, ast.AnnAssign) and isinstance(following, ast.Expr):
                name = typing.cast(ast.Name, one.target).id
                found[name] = " ".join(str(typing.cast(ast.Constant, following.value).value).split())
    return found


def kind_of(hint: Any) -> str:
    """A type in words, with its range."""
    if hint is type(None):
        return "null"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join("true" if each is True else "false" if each is False else str(each) for each in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(kind_of, arguments))
    if origin is Annotated:
        return kind_of(arguments[0]) + "".join(_bound(each) for each in arguments[1:])
    if dataclasses.is_dataclass(hint):
        return "mapping"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(hint, str(hint))


def _bound(constraint: Any) -> str:
    said = ""
    for each in (*getattr(constraint, "metadata", ()), constraint):
        for kind, attribute, sign in (
            (annotated_types.Ge, "ge", "≥"),
            (annotated_types.Gt, "gt", ">"),
            (annotated_types.Le, "le", "≤"),
            (annotated_types.Lt, "lt", "<"),
        ):
            if isinstance(each, kind) and getattr(each, attribute) not in (10**9, 2**63 - 1):
                said += f", {sign} {getattr(each, attribute):g}"
    return said


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        if dataclasses.is_dataclass(value):
            return "{}"
    else:
        return "(to be given)"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


class ConfigKeys(SphinxDirective):
    """The table."""

    def run(self) -> list[nodes.Node]:
        """A row a key."""
        table = nodes.table(classes=["config-keys"])
        group = nodes.tgroup(cols=4)
        group += [nodes.colspec(colwidth=width) for width in (28, 16, 10, 46)]
        head, body = nodes.thead(), nodes.tbody()
        head += _row([nodes.Text(text) for text in ("key", "type", "default", "what it is")])
        for key in all_keys():
            name, _, of = key.name.partition(" ")
            first = [nodes.literal(text=name), *([nodes.Text(f" {of}")] if of else [])]
            default = nodes.literal(text=key.default) if key.default else nodes.Text("")
            body += _row([first, nodes.Text(key.kind), default, nodes.Text(key.text)])
        group += [head, body]
        table += group
        return [table]


def _row(cells: list[Any]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry, paragraph = nodes.entry(), nodes.paragraph()
        paragraph += cell
        entry += paragraph
        row += entry
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
