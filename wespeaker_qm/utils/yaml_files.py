"""YAML as a user means it: 5e-5 is a number, and a key that stands twice is an error."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError

_REMEDY = "put back a copy of it (an experiment's config.yaml: delete .done/train there and run stage 3 again)"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's floats and without doubled keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 5e-5 (no dot, unsigned exponent) is text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML value; ``source`` names it in messages.

    >>> parse_yaml("{final_lr: 5e-5}", "example")
    {'final_lr': 5e-05}

    Raises:
        RecipeError: not YAML, or a key stands twice; the message names source and line.
    """
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader: builds no objects
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = source if mark is None else f"{source}:{mark.line + 1}"
        raise RecipeError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def read_yaml_mapping(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    Raises:
        RecipeError: the file cannot be read, is not what was written, is not YAML, or holds something else.
    """
    try:
        verify(path, _REMEDY)
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot read this file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text; expected a YAML file") from None
    content = parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: found {type(content).__name__}, expected a mapping of keys to values")
    return content
