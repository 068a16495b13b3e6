"""Text tables: Kaldi's, with one entry a line and fields separated by white space, and those with a header line."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wespeaker_qm.utils.errors import RecipeError, counted, first_few, found_at, shown, shown_line
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.remedies import made_again, mended
from wespeaker_qm.utils.text import fields_of, lines_of, number, read_text

_BLANKS = (ord(" "), ord("\t"))


def read_rows(path: Path | str, num_fields: int) -> list[list[str]]:
    """Read a table of exactly ``num_fields`` fields a line; the last may hold spaces, blank lines are passed over.

    Raises:
        RecipeError: the file is missing or not UTF-8, or a line has fewer fields; the message names file, line number
            and content.
    """
    return [fields for _, fields in _numbered_rows(path, _read(path), num_fields)]


def read_map(path: Path | str) -> dict[str, str]:
    """Read a two-column table (``wav.scp``, ``utt2spk``, ...) into a dict, in file order.

    Raises:
        RecipeError: as :func:`read_rows`, or a key stands twice.
    """
    text = _read(path)
    table = _plain_map(text)
    if table is not None:
        return table
    table = {}
    for line, (key, value) in _numbered_rows(path, text, 2):
        if key in table:
            raise RecipeError(
                f"{path}:{line}: key {shown(key)} stands twice; keys must be unique: correct it, or {mended(path)}"
            )
        table[key] = value
    return table


def read_numbers(path: Path | str, expected: str) -> dict[str, float]:
    """Read a two-column table of numbers (``utt2dur``), in file order.

    Args:
        path: the table.
        expected: what the numbers are, for the message: ``"seconds"``.

    Raises:
        RecipeError: as :func:`read_map`, or a value is no finite number.
    """
    values = {}
    for key, text in read_map(path).items():
        try:
            values[key] = number(text, "", expected)
        except RecipeError as error:
            line = next(line for line, content in lines_of(read_text(path)) if fields_of(content, 2)[0] == key)
            raise RecipeError(f"{path}:{line}: {shown(key)}{error}; correct it, or {mended(path)}") from None
    return values


def read_tsv(path: Path | str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header line and tab-separated fields.

    Raises:
        RecipeError: no such file, not UTF-8, one of ``columns`` is missing from the header, or a line has not as many
            fields as the header.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: {found_at(path)}; it belongs to the recipe, check out the project again")
    # Not the lines without space at their ends: the last cells of a row may be empty.
    lines = [(line, cells.split("\t")) for line, cells in enumerate(read_text(path).split("\n"), start=1)]
    (_, header), *rows = [(line, cells) for line, cells in lines if "".join(cells).strip()] or [(1, [""])]
    for column in columns:
        if column not in header:
            raise RecipeError(f"{path}: no column {column!r}, expected {', '.join(columns)} (tab-separated)")
    for line, cells in rows:
        if len(cells) != len(header):
            raise RecipeError(
                f"{path}:{line}: {counted(len(cells), 'field', 'fields')} in {shown_line(chr(9).join(cells))}, "
                f"expected the {len(header)} of the header, separated by tabs"
            )
    return [dict(zip(header, cells, strict=True)) for _, cells in rows]


def _read(path: Path | str) -> str:
    if not Path(path).is_file():
        raise RecipeError(f"{path}: {found_at(path)}; {made_again(path)}")
    return read_text(path)


def _numbered_rows(path: Path | str, text: str, num_fields: int) -> Iterable[tuple[int, list[str]]]:
    for line, content in lines_of(text):
        fields = fields_of(content, num_fields)
        if len(fields) != num_fields:
            raise RecipeError(
                f"{path}:{line}: {counted(len(fields), 'field', 'fields')} in {shown_line(content)}, expected "
                f"{num_fields} separated by white space; correct it, or {mended(path)}"
            )
        yield line, fields


def _plain_map(text: str) -> dict[str, str] | None:
    """The table where every line has just two fields and every key stands once, much faster; None elsewhere."""
    text += "" if text.endswith("\n") else "\n"
    content = np.frombuffer(text.encode(), np.uint8)  # other spaces of Unicode, which belong to names, lie above these
    places = np.flatnonzero(content <= ord(" "))
    (spaces, ends) = (content[places[start::2]] for start in (0, 1))
    are_apart = (np.diff(places, prepend=-1) > 1).all()
    if len(spaces) != len(ends) or not (are_apart and np.isin(spaces, _BLANKS).all() and (ends == ord("\n")).all()):
        return None
    fields = iter(text.replace("\t", " ").replace("\n", " ").split(" "))
    table = dict(zip(fields, fields, strict=False))  # of the empty text behind the last line end there is no pair
    return table if len(table) == len(ends) else None


def refuse_commands(path: Path | str, places: Mapping[str, str]) -> None:
    """Refuse a list of files (``wav.scp``, ``xvector.scp``) in which a command or standard input stands for a file.

    Kaldi runs such a line in a shell. Here a list that somebody else has made runs nothing.

    Args:
        path: the list, for the message.
        places: its content, as :func:`read_map` gives it.

    Raises:
        RecipeError: there are some; the first few are shown with their lines, and all are counted.
    """
    commands = {key for key, place in places.items() if place.endswith("|") or place.startswith("|") or place == "-"}
    if commands:
        lines = [
            f"{path}:{line}: is a command: {shown_line(content)}"
            for line, content in lines_of(read_text(path))
            if commands.intersection(fields_of(content, 2)[:1])
        ]
        of = f"of {len(places)} entries"
        raise RecipeError(
            f"{path}: {counted(len(commands), f'{of} is no file', f'{of} are no files')}; run the commands once and "
            "name the files that they make:" + first_few(lines)
        )


def write_rows(path: Path | str, rows: Iterable[Sequence[object]], separator: str = " ") -> None:
    """Write rows atomically, fields joined by ``separator``, overwriting ``path``."""
    write_text(path, "".join(separator.join(map(str, row)) + "\n" for row in rows))
