"""Values of other kinds than a dataclass declares are told by name."""

import dataclasses
import math
from typing import Any, Literal

import pytest

from wespeaker_qm.utils.kinds import check_kinds


@dataclasses.dataclass
class Inner:
    numbers: list[float]


@dataclasses.dataclass
class Outer:
    text: str = "x"
    number: float = 1
    count: int | None = None
    choice: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (1.0, 2.0)
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=lambda: Inner([1, 2.5]))
    anything: Any = None


@pytest.mark.parametrize(
    "right", [{}, {"count": 3}, {"pair": [1, 2]}, {"choice": "b"}, {"table": {"x": 1}}, {"anything": [object()]}]
)
def test_what_is_declared_is_taken(right: dict[str, Any]) -> None:
    check_kinds(Outer(**right))


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": 1}, {"text": None}, {"number": "1"}, {"number": math.nan}, {"number": math.inf}, {"number": True},
        {"count": 1.0}, {"count": True}, {"choice": "c"}, {"choice": ["a"]}, {"pair": (1.0,)}, {"pair": ("a", "b")},
        {"table": []}, {"table": {1: 1}}, {"table": {"x": "y"}}, {"inner": {"numbers": []}}, {"inner": None},
    ],
)  # fmt: skip
def test_what_is_not_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))}: found .*, expected "):
        check_kinds(Outer(**wrong))


def test_values_inside_are_named_by_their_own_field() -> None:
    with pytest.raises(ValueError, match=r"^numbers: found \['x'\], expected list\[float\]"):
        check_kinds(Outer(inner=Inner(["x"])))  # type: ignore[list-item]
