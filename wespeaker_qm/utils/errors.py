"""The one exception that a user is meant to read, and how it lists what is wrong."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

NUM_SHOWN = 5


class RecipeError(Exception):
    """Bad input, configuration or environment.

    The message names the file or key, the value found, the value expected, and the remedy. The command line prints
    it without a traceback and exits with 1; anything else that is raised is a bug and keeps its traceback.
    """


def first_few(items: Sequence[str]) -> str:
    """The first few of ``items``, one a line, and how many there are: the tail of an error message."""
    lines = [f"\n  {item}" for item in items[:NUM_SHOWN]]
    if len(items) > NUM_SHOWN:
        lines.append(f"\n  ... and {len(items) - NUM_SHOWN} more")
    return "".join(lines)


def nearest(name: object, known: Iterable[str]) -> str:
    """The up to three of the ``known`` names that are most like ``name``, for the message that there is no such name.

    >>> nearest("num_room", ["name", "num_rooms", "seed", "num_babble"])
    'num_rooms, num_babble, name'
    """
    return ", ".join(get_close_matches(str(name), list(known), 3, 0))
