"""YAML as a user means it: 5e-5 is a number, a key that stands twice is an error, and so is a bomb.

An alias (``*name``) repeats what an anchor (``&name``) marks. A few lines of aliases to aliases say a million values,
or a value within itself, which no program would ever have written out.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError, shown
from wespeaker_qm.utils.text import read_text

_REMEDY = "put back a copy of it (an experiment's config.yaml: delete what is there, and run stage 3 again as before)"


_MAX_VALUES = 100_000
"""In one file, aliases written out: a hundred times what any configuration or corpus needs."""
_MAX_CHARACTERS = 2_000_000
"""In one file: a second or two of reading."""
_MAX_DIGITS = 400
"""Of a whole number. One in base 60 (``1:1:1``, which YAML 1.1 has) takes a time that grows with their square."""


_MERGE = "tag:yaml.org,2002:merge"
_TOO_LONG = (
    f"found {{}}, expected YAML of at most {_MAX_CHARACTERS:,}; is it another kind of file? Name the one that is meant"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's floats, without doubled keys, and with a limit of what aliases repeat."""

    def construct_document(self, node: yaml.Node) -> Any:
        _count_values(node, {})
        return super().construct_document(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            raise ValueError(f"Exceeds the limit of {_MAX_DIGITS} digits: line {node.start_mark.line + 1}")
        number: int = super().construct_yaml_int(node)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if not isinstance(key, str | int | float | None):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {shown(key)} is no text; put it between quotes", key_node.start_mark
                    )
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {shown(key)} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes a text that the loader would take for a number."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


# PyYAML follows YAML 1.1, where 5e-5 (no dot, unsigned exponent) is text.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """How many values a node holds where every alias is written out; ``counts`` has 0 for those that hold this one.

    Raises:
        yaml.constructor.ConstructorError: too many, or a value is within itself.
    """
    if node not in counts:
        counts[node] = 0
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        counts[node] = 1 + sum(_count_values(child, counts) for child in flat)
    if not 0 < counts[node] <= max(_MAX_VALUES, len(counts)):  # without aliases there are not more values than nodes
        found = f"more than {_MAX_VALUES:,} values" if counts[node] else "a value within itself"
        problem = f"{found}, aliases (*name) of anchors (&name) replaced by what they repeat; write the values out"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return counts[node]


def dump_yaml(value: Any) -> str:
    r"""Plain values as YAML, which :func:`parse_yaml` reads back the same.

    >>> dump_yaml({"name": "5e3", "rate": 5000.0})
    "name: '5e3'\nrate: 5000.0\n"
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML value; ``source`` names it in messages.

    >>> parse_yaml("{final_lr: 5e-5}", "example")
    {'final_lr': 5e-05}

    Raises:
        RecipeError: not YAML, a key stands twice, or too long, as it is or (more than 100,000 values) where every alias
            is written out; the message names source and line.
    """
    if len(text) > _MAX_CHARACTERS:
        raise RecipeError(f"{source}: {_TOO_LONG.format(f'{len(text):,} characters')}")
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader: builds no objects
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = source if mark is None else f"{source}:{mark.line + 1}"
        raise RecipeError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise RecipeError(f"{source}: not valid YAML: values are nested too deeply; write fewer brackets") from None
    except (ValueError, AttributeError, LookupError, TypeError, ArithmeticError) as error:
        # A date of month 13, !!bool of 7, !!int of nothing, !!set of lists, a number in base 60 beyond all floats.
        raise RecipeError(
            f"{source}: not valid YAML: a value is not of its kind ({error}); put what is meant as text between quotes"
        ) from None


def read_yaml_mapping(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    Raises:
        RecipeError: the file cannot be read, is not what was written, is not YAML, or holds something else.
    """
    try:
        if (num_bytes := Path(path).stat().st_size) > 4 * _MAX_CHARACTERS:  # a character has four bytes at most
            raise RecipeError(f"{path}: {_TOO_LONG.format(f'{num_bytes:,} bytes')}")
        verify(path, _REMEDY)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read this file: {error.strerror}; name another, or {_REMEDY}") from None
    content = parse_yaml(read_text(path), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: found {type(content).__name__}, expected a mapping of keys to values; correct it, name another, "
            f"or {_REMEDY}"
        )
    return content
