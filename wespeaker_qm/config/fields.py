"""What the parts of the schema are made of: types with ranges, errors of keys at odds, fields that a name chooses."""

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class NotInWeSpeaker:
    """Of a key: WeSpeaker does not know it."""


OWN = NotInWeSpeaker()


def without_own_defaults(settings: Any) -> dict[str, Any]:
    """A dataclass as plain values, without the keys that WeSpeaker does not know, where they are at their default.

    Its programs stop at some of them, and lose nothing without them.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if OWN in getattr(hints[field.name], "__metadata__", ()) and value == field.default:
            continue
        values[field.name] = without_own_defaults(value) if dataclasses.is_dataclass(value) else value
    return values


class InconsistentError(ValueError):
    """Keys that are fine one by one but not together.

    Args:
        keys: the keys at odds, relative to the dataclass that raises; the first is the one to blame.
        message: what was found and what is expected.
    """

    def __init__(self, keys: Sequence[str], message: str) -> None:
        super().__init__(f"{keys[0]}: {message}")
        self.keys = tuple(keys)
        self.message = message


@dataclasses.dataclass(frozen=True)
class NameIn:
    """One of the names of a table, which is looked up whenever a value is checked; any other value is told them."""

    table: Mapping[str, type]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, name: Any) -> str:
        if not isinstance(name, str) or name not in self.table:
            raise unknown_name(name, self.table)
        return name


@dataclasses.dataclass(frozen=True)
class ChosenBy:
    """Of a field: its dataclass is chosen by a name from a table, which is looked up whenever a value is checked.

    So a row of the table is all that a new member needs. (A union that pydantic discriminates is fixed when the class
    around it is made.)

    Attributes:
        table: name -> dataclass.
        key: of the value, where the name stands. None: the value is a pair of name and arguments, as
            :func:`wespeaker_qm.config.wespeaker.with_names` makes it of two keys side by side.
    """

    table: Mapping[str, Any]
    key: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._choose)

    def _choose(self, value: Any) -> Any:
        if isinstance(value, tuple(self.table.values())):
            return value
        if self.key is None and isinstance(value, list):
            name, arguments = value
            if name not in self.table:
                raise PydanticCustomError(SKIPPED, "chosen by a name that is refused where it stands")
        elif self.key is not None and isinstance(value, dict):
            if self.key not in value:
                raise PydanticCustomError("name_missing", "no {key}", {"key": self.key, "names": list(self.table)})
            name, arguments = value[self.key], value
            if not isinstance(name, str) or name not in self.table:
                raise unknown_name(name, self.table, self.key)
        else:
            raise PydanticKnownError("dataclass_type", {"class_name": " or ".join(self.table)})
        # Through JSON because pydantic's strict mode wants instances of nested dataclasses from Python objects.
        return TypeAdapter(self.table[name]).validate_json(json.dumps(arguments))


SKIPPED = "skipped"
"""Type of an error that another error makes superfluous."""


def unknown_name(name: Any, table: Mapping[str, Any], key: str = "") -> PydanticCustomError:
    """A name that is not in a table; ``key`` of the value is where it stands, if not the value itself."""
    return PydanticCustomError("unknown_name", "none of {names}", {"key": key, "found": name, "names": list(table)})
