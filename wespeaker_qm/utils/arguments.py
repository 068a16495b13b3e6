"""Types for argparse that refuse what they do not understand, and numbers that mean nothing.

Python's ``int`` takes ``1_0`` and its ``float`` takes ``nan`` and ``inf``, which no comparison with a limit refuses.
"""

import argparse
import math
import re
from collections.abc import Callable

from wespeaker_qm.utils.errors import shown


class BadValueError(argparse.ArgumentTypeError):
    """A text that means nothing here; argparse shows the message beside the option's name."""


_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def true_or_false(text: str) -> bool:
    """``true`` or ``false`` and nothing else: ``bool("False")`` is True.

    >>> true_or_false("false")
    False

    Raises:
        BadValueError: any other text.
    """
    if text not in {"true", "false"}:
        raise BadValueError(f"found {shown(text)}, expected true or false")
    return text == "true"


def whole_number(low: int, high: int | None = None, also: int | None = None) -> Callable[[str], int]:
    """A type of whole numbers from ``low`` to ``high``, both included; None is no limit. ``also`` is one more.

    >>> whole_number(1)("12")
    12
    """
    span = f"from {low} to {high}" if high is not None else f"of at least {low}"
    expected = f"a whole number {span}" if also is None else f"{also} or a whole number {span}"

    def convert(text: str) -> int:
        value = int(text) if _WHOLE.fullmatch(text) else None
        if value is None or (value != also and (value < low or (high is not None and value > high))):
            raise BadValueError(f"found {shown(text)}, expected {expected}")
        return value

    return convert


def number(low: float, high: float = math.inf, *, inside: bool = False) -> Callable[[str], float]:
    """A type of finite numbers from ``low`` to ``high``; with ``inside`` the ends themselves are refused.

    >>> number(0, 1)("5e-2")
    0.05
    """
    between = f"between {low:g} and {high:g}" if inside else f"from {low:g} to {high:g}"
    expected = f"a number {between}" if math.isfinite(high) else f"a number of at least {low:g}"

    def convert(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        is_in = low < value < high if inside else low <= value <= high
        if not (is_in and math.isfinite(value)):
            raise BadValueError(f"found {shown(text)}, expected {expected}")
        return value

    return convert


def fraction_or_count(text: str) -> float:
    """A part of a whole, from 0 to 1, or how many, from 2 on.

    >>> fraction_or_count("0.1"), fraction_or_count("5")
    (0.1, 5)

    Raises:
        BadValueError: any other text.
    """
    try:
        return FRACTION(text)
    except BadValueError:
        pass
    try:
        return COUNT(text)
    except BadValueError:
        raise BadValueError(f"found {shown(text)}, expected a fraction from 0 to 1, or a whole number") from None


COUNT = whole_number(1)
"""How many, at least one."""
COUNT_OR_NONE = whole_number(0)
"""How many, or 0 for none."""
PROCESSES = whole_number(1, 4096)
"""Processes that share work."""
READERS = whole_number(0, 4096)
"""Processes that read ahead, or 0: read in the process that needs it."""
SEED = whole_number(0, 2**63 - 1)
"""Of random numbers; numpy, PyTorch and Python take all of these."""
RESAMPLES = whole_number(2, 1_000_000, also=0)
"""Of a bootstrap, or 0 for none: of one there is no deviation, and more than a million tell nothing more."""
SAMPLE_RATE_HZ = whole_number(4000, 384_000)
"""Of audio, in Hz."""
SECONDS = number(0)
"""A length of time."""
FRACTION = number(0, 1)
"""A part of a whole, all and nothing included."""
RATE = number(1e-12, 1, inside=True)
"""An error rate or a prior; a smaller one takes more trials than can be."""
