"""Text files, in one way for all of them, whoever wrote them.

UTF-8, with or without a byte order mark; lines end as on Linux, Windows or an old Mac; blank lines are passed over;
fields stand between blanks and tabs, as in Kaldi: other spaces of Unicode belong to names. Whatever cannot be read is
refused with file, line, what was found, and a remedy.
"""

import codecs
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wespeaker_qm.utils.errors import RecipeError, refuse_no_file, shown, shown_line
from wespeaker_qm.utils.trouble import remedy_of

BYTE_ORDER_MARK = codecs.BOM_UTF8
_SPACE = " \t\r\f\v"
_SPACES = re.compile(f"[{_SPACE}]+")
_BLOCK_BYTES = 1 << 20
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """A line that is not blank, without space at its ends."""

    number: int
    """From 1 on, blank lines counted in."""
    text: str


def read_text(path: Path | str, remedy: str = "") -> str:
    """The content of a text file, its lines ended by a line feed.

    Args:
        path: the file, which exists.
        remedy: how it is made again, for the message.

    Raises:
        RecipeError: the file cannot be read, is a pipe or a device, or is not UTF-8.
    """
    refuse_no_file(path)
    try:
        content = _content(Path(path))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read this file: {error.strerror}; {remedy or remedy_of(error)}") from error
    return decode(content, path, remedy).replace("\r\n", "\n").replace("\r", "\n")


def _content(path: Path) -> bytes:
    """All bytes of a text; of what is none, with NUL in it, not much more than what :func:`decode` refuses it by."""
    blocks = []
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            blocks.append(block)
            if b"\0" in block:
                break
    return b"".join(blocks)


def decode(content: bytes, path: Path | str, remedy: str = "") -> str:
    """The text that ``content`` of the file ``path`` is, without a byte order mark.

    Raises:
        RecipeError: it is not UTF-8, or holds NUL, which no text does.
    """
    try:
        text = content.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        position = error.start + len(content) - len(error.object)
        encoding = "UTF-16" if content.startswith(_OTHER_MARKS) else "LATIN1"
        advice = remedy or f"write it in UTF-8 (`iconv -f {encoding} -t UTF-8 OLD > NEW`, if it is {encoding})"
        raise RecipeError(_message(content, path, position, "not UTF-8 text", advice)) from None
    if "\0" in text:
        advice = remedy or "put a file of text there"
        raise RecipeError(_message(content, path, content.index(0), "not text, there is a NUL", advice))
    return text


def _message(content: bytes, path: Path | str, position: int, fault: str, advice: str) -> str:
    """Names and shows the line of which the byte at ``position`` is wrong."""
    start = max(content.rfind(end, 0, position) for end in (b"\n", b"\r")) + 1
    number = content.count(b"\n", 0, position) + 1
    return f"{path}:{number}: {fault}: found {shown_line(content[start:].splitlines()[0])}; {advice}"


def lines_of(text: str) -> Iterator[Line]:
    """The lines of a text that are not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip(_SPACE):
            yield Line(number, stripped)


def fields_of(line: str, most: int = 0) -> list[str]:
    """The fields of a line without space at its ends; with ``most``, the last of so many may hold spaces.

    >>> fields_of("a  b c", 2)
    ['a', 'b c']
    """
    return _SPACES.split(line, max(most - 1, 0))


def is_field(text: str) -> bool:
    """Whether ``text``, written into a table, is read as one field.

    >>> is_field("Zoë\N{NO-BREAK SPACE}B."), is_field("Zoë B."), is_field("")
    (True, False, False)
    """
    return text != "" and "\n" not in text and fields_of(text) == [text]


def in_another_form(missing: Iterable[str], known: Iterable[str]) -> str:
    """What to do where names are missing only because Unicode writes a letter in two ways, which look the same.

    An accented letter is one character or two; macOS lists files with two. "" where no name is known in the other way.

    >>> in_another_form(["Jose\N{COMBINING ACUTE ACCENT}"], ["Jos\N{LATIN SMALL LETTER E WITH ACUTE}"])[:38]
    '1 of them are there in another form of'
    """
    others = [unicodedata.normalize("NFC", name) for name in missing if not name.isascii()]
    if not others:
        return ""
    composed = {unicodedata.normalize("NFC", name) for name in known if not name.isascii()}
    count = sum(name in composed for name in others)
    return (
        f"{count} of them are there in another form of Unicode: write both files in one (uconv -x nfc)" if count else ""
    )


def read_names(path: Path | str) -> list[str]:
    """The lines of a file that has one name a line.

    Raises:
        RecipeError: as :func:`read_text`.
    """
    return [line.text for line in lines_of(read_text(path))]


def parse_json(text: str, source: Path | str, remedy: str) -> Any:
    """One JSON value.

    Args:
        text: with or without a byte order mark.
        source: what the text is of, and ...
        remedy: how it is made again, for the message.

    Raises:
        RecipeError: it is no JSON, or nested so deeply that nobody wrote it.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # also of a number of 5000 digits
        raise RecipeError(f"{source}: not JSON ({error}): found {shown(text)}; {remedy}") from None


def json_or_none(path: Path | str) -> Any:
    """What a JSON file holds; None where there is none that can be read."""
    try:
        return parse_json(read_text(path), path, "")
    except RecipeError:
        return None


def number(text: str, place: str, expected: str) -> float:
    """A finite number.

    Args:
        text: what stands there.
        place: where, and ...
        expected: what it means and how it may be mended, for the message: ``"seconds"``.

    Raises:
        RecipeError: it is no number, or NaN or infinite; the message says which.
    """
    value = as_number(text)
    if value is None:
        raise RecipeError(f"{place}: {shown(text)} is no number, expected {expected}")
    if not math.isfinite(value):
        raise RecipeError(f"{place}: {shown(text)} is not finite, expected {expected}")
    return value


def as_number(text: str | bytes) -> float | None:
    """The number that ``text`` is, NaN and infinity counted in; None where it is none.

    Python's digits between underscores are no number to any other program.
    """
    separator = b"_" if isinstance(text, bytes) else "_"
    try:
        return None if separator in text else float(text)  # type: ignore[operator]
    except ValueError:
        return None
