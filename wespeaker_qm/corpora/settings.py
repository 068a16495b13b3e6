"""What may be set of a corpus, declared once: keys of ``corpus.yaml``, options of the command line, and their checks.

A corpus declares a frozen dataclass. Each field is a key of ``corpus.yaml``, annotated with its :class:`Setting`; one
with a help text is an option of ``wespeaker-qm prepare``, too, which overrides the key::

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        name: Annotated[str, Setting(str)]
        num_rooms: Annotated[int, Setting(COUNT, "simulated rooms")] = 300
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from wespeaker_qm.utils.arguments import BadValueError
from wespeaker_qm.utils.errors import RecipeError, nearest, shown
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

Settings = TypeVar("Settings")

KIND = "kind"
"""The key of ``corpus.yaml`` that says which corpus it is of; no field of any dataclass."""


class Setting(NamedTuple):
    """How a value is read.

    Attributes:
        convert: from text; raises BadValueError. See :mod:`wespeaker_qm.utils.arguments`.
        help: of the option; empty where there is none, but only a key of ``corpus.yaml``.
        metavar: stands for the value in the help.
        is_flag: the option takes no value, it means true.
        from_yaml: reads a value of ``corpus.yaml`` that is more than a line of text; by default such a value is an
            error, and any other is converted from its text.
    """

    convert: Callable[[str], Any]
    help: str = ""
    metavar: str | None = None
    is_flag: bool = False
    from_yaml: Callable[[Any], Any] | None = None

    def read(self, value: Any) -> Any:
        """Convert a value that a YAML file or a caller gives.

        Raises:
            BadValueError: the value means nothing here.
        """
        if value is None or value == "":
            raise BadValueError(f"found {'nothing' if value is None else shown(value)}, expected a value")
        if self.from_yaml is not None:
            return self.from_yaml(value)
        if isinstance(value, list | dict):
            raise BadValueError(f"found {shown(value)}, expected a single value")
        return self.convert(str(value).lower() if isinstance(value, bool) else str(value))


def names(value: Any) -> list[str]:
    """A list of names in ``corpus.yaml``.

    Raises:
        BadValueError: something else.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        others = [] if not isinstance(value, list) else [name for name in value if not isinstance(name, str)]
        quotes = f"; put what YAML takes for something else between quotes: {shown(others[0])}" if others else ""
        raise BadValueError(f"found {shown(value)}, expected a list of names{quotes}")
    return value


def lists_by_name(item: type) -> Callable[[Any], dict[str, list[Any]]]:
    """A mapping of names to lists of ``item`` in ``corpus.yaml``; what it makes raises BadValueError of others."""

    def convert(value: Any) -> dict[str, list[Any]]:
        lists = list(value.values()) if isinstance(value, dict) else [None]
        if not all(isinstance(each, list) and all(type(entry) is item for entry in each) for each in lists):
            raise BadValueError(f"found {shown(value)}, expected names, each with a list of {item.__name__}")
        return dict(value)

    return convert


def declared(settings: type) -> dict[str, Setting]:
    """Name -> setting of each field of the dataclass of a corpus, in its order."""
    hints = typing.get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(settings)}


def option_defaults(settings: type, recipe_dir: Path) -> dict[str, Any]:
    """Name -> default of each option of a corpus: the value of ``corpus.yaml``, else that of the dataclass.

    Raises:
        RecipeError: a value of ``corpus.yaml`` that the option would not take.
    """
    path = recipe_dir / "corpus.yaml"
    given = read_yaml_mapping(path)
    options = [name for name, setting in declared(settings).items() if setting.help]
    defaults = {field.name: _default(field) for field in dataclasses.fields(settings) if field.name in options}
    return defaults | _converted(settings, {name: given[name] for name in options if name in given}, path)


def read_settings(settings: type[Settings], recipe_dir: Path, options: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a corpus: its ``corpus.yaml``, and what is given beside it.

    Args:
        settings: the dataclass of the corpus.
        recipe_dir: holds ``corpus.yaml``.
        options: name -> value of settings that override the file's.

    Raises:
        RecipeError: an unknown key or option (with the nearest valid names), one that is missing, or a value that means
            nothing.
    """
    path = recipe_dir / "corpus.yaml"
    given = {name: value for name, value in read_yaml_mapping(path).items() if name != KIND}
    values = _converted(settings, given, path) | _converted(settings, options or {}, "options")
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise RecipeError(f"{path}: key {field.name!r} is missing")
    return settings(**values)


def _converted(settings: type, given: Mapping[str, Any], source: Path | str) -> dict[str, Any]:
    known = declared(settings)
    unset = {field.name for field in dataclasses.fields(settings) if field.default is None}
    values = {}
    for name, value in given.items():
        if name not in known:
            raise RecipeError(f"{source}: unknown key {shown(name)}; nearest: {nearest(name, known)}")
        try:
            values[name] = None if value is None and name in unset else known[name].read(value)
        except BadValueError as error:
            raise RecipeError(f"{source}: {name}: {error}") from None
    return values


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
