"""The one exception that a user is meant to read, and how it lists and shortens what is wrong."""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

logger = logging.getLogger(__name__)

NUM_SHOWN = 5
_VALUE_CHARACTERS = 60
_LINE_CHARACTERS = 120
_MESSAGE_CHARACTERS = 1500
_MESSAGE_LINES = 100
_LONG = 1000
_UNSEEN = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Control characters but tab and line feed, what turns the direction of text, other ends of lines, half characters."""


class RecipeError(Exception):
    """Bad input, configuration or environment.

    The message names the file or key, the value found, the value expected, and the remedy. The command line prints
    it without a traceback and exits with 1; anything else that is raised is a bug and keeps its traceback.

    Whatever a message quotes, it has at most 100 lines, and none with more than 1,500 characters: of a longer one the
    middle is left out. What a terminal would obey is spelt out (:func:`printable`).
    """

    def __init__(self, message: str) -> None:
        lines = printable(message).split("\n")
        if len(lines) > _MESSAGE_LINES:
            left_out = counted(len(lines) - _MESSAGE_LINES + 1, "more line", "more lines")
            lines[_MESSAGE_LINES - 1 :] = [f"... and {left_out}"]
        super().__init__("\n".join(_shortened(line, _MESSAGE_CHARACTERS) for line in lines))


def shown(value: object, most: int = _VALUE_CHARACTERS) -> str:
    r"""What was found, as a message quotes it: its ``repr``, in ``most`` characters; bytes as the text that they are.

    >>> print(shown("abc"), shown(b"M\xfcller"), shown(0.5))
    'abc' 'M\xfcller' 0.5
    >>> shown("x" * 10_000_000)
    "'xxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxx' (10,000,000 characters)"
    """
    try:
        text = repr(value.decode() if isinstance(value, bytes) else value)
    except UnicodeDecodeError:
        text = repr(value)[1:]
    except (ValueError, RecursionError):  # a number of more digits, or deeper brackets, than Python writes
        text = f"{type(value).__name__} too large to be shown"
    if len(text) <= most:
        return text
    size = f" ({len(value):,} characters)" if isinstance(value, str | bytes) and len(value) > _LONG else ""
    return _shortened(text, most - len(size)) + size


def printable(text: str) -> str:
    r"""``text`` as it may be shown: spelt out is what clears or colours a terminal, or turns the direction of a line.

    Names of files, of members of archives and of speakers may be anybody's. Tabs and line feeds stay.

    >>> print(printable("a\x1b[2Jb\u202e.wav"))
    a\x1b[2Jb\u202e.wav
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def refuse_no_file(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe, a socket or a device where a file is to be read: it may have no end, or nobody writes into it.

    Raises:
        RecipeError: so it is.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise RecipeError(f"{path}: {found_at(path)}, or write what it gives into a file and name that")


def counted(number: int, one: str, several: str) -> str:
    """How many there are, in words that fit one, or several.

    >>> counted(1, "label disagrees", "labels disagree"), counted(1200, "label disagrees", "labels disagree")
    ('1 label disagrees', '1,200 labels disagree')
    """
    return f"{number:,} {one if number == 1 else several}"


@contextlib.contextmanager
def told_beside(error: BaseException | None) -> Iterator[None]:
    """An error in the block, which ends what an error has ended, does not take its place: it is told beside it.

    Args:
        error: that has ended it, or None: then that of the block is raised.
    """
    try:
        yield
    except Exception as late:
        if error is None:
            raise
        logger.error("error: %s", late)


def first_few(items: Sequence[str]) -> str:
    """The first few of ``items``, one a line, and how many there are: the tail of an error message."""
    lines = [f"\n  {item}" for item in items[:NUM_SHOWN]]
    if len(items) > NUM_SHOWN:
        lines.append(f"\n  ... and {len(items) - NUM_SHOWN} more")
    return "".join(lines)


def shown_line(line: str | bytes) -> str:
    """A line of a file, as :func:`shown`: with room for two names of utterances, a score and a label."""
    return shown(line, _LINE_CHARACTERS)


def found_at(path: str | os.PathLike[str]) -> str:
    """What lies where a file should be and is none, in words, with what to do about it first.

    >>> found_at("nowhere/x"), found_at("/dev")
    ('no such file', 'is a folder, expected a file: move it away')
    """
    if os.path.isdir(path):
        return "is a folder, expected a file: move it away"
    if not os.path.lexists(path):
        return "no such file"
    if os.path.exists(path):
        return "is a pipe, a socket or a device, expected a file: move it away"
    return f"is a link to {os.readlink(path)}, which leads in a circle or to nothing: remove it"


def nearest(name: object, known: Iterable[str]) -> str:
    """The up to three of the ``known`` names that are most like ``name``, for the message that there is no such name.

    The first 60 characters of ``name`` decide: comparing takes a time that grows with their number.

    >>> nearest("num_room", ["name", "num_rooms", "seed", "num_babble"])
    'num_rooms, num_babble, name'
    """
    return ", ".join(get_close_matches(str(name)[:_VALUE_CHARACTERS], list(known), 3, 0))


def _shortened(text: str, limit: int) -> str:
    """``text``, of which the middle is left out where it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    tail = (limit - 3) // 3
    return f"{text[: limit - 3 - tail]}...{text[-tail:]}"
