"""The one exception that a user is meant to read, and how it lists what is wrong."""

from collections.abc import Sequence

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
