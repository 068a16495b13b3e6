"""Text tables: Kaldi's, with one entry a line and fields separated by white space, and those with a header line."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError, first_few
from wespeaker_qm.utils.files import write_text


def read_rows(path: Path | str, num_fields: int) -> list[list[str]]:
    """Read a table of exactly ``num_fields`` fields a line; the last may hold spaces, blank lines are passed over.

    Raises:
        RecipeError: the file is missing or not UTF-8, or a line has fewer fields; the message names file, line number
            and content.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; run the stage that makes it first (run.sh --help lists the stages)")
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        fields = line.strip().split(maxsplit=num_fields - 1)
        if not fields:
            continue
        if len(fields) != num_fields:
            raise RecipeError(
                f"{path}:{number}: {len(fields)} field(s) in {line.rstrip()!r}, expected {num_fields} "
                "separated by white space"
            )
        rows.append(fields)
    return rows


def read_map(path: Path | str) -> dict[str, str]:
    """Read a two-column table (``wav.scp``, ``utt2spk``, ...) into a dict, in file order.

    Raises:
        RecipeError: as :func:`read_rows`, or a key stands twice.
    """
    table = _read_plain_map(Path(path))
    if table is not None:
        return table
    table = {}
    for key, value in read_rows(path, 2):
        if key in table:
            raise RecipeError(f"{path}: key {key!r} stands twice; keys must be unique")
        table[key] = value
    return table


def read_tsv(path: Path | str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header line and tab-separated fields.

    Raises:
        RecipeError: no such file, or one of ``columns`` is missing from the header.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; it belongs to the recipe, check out the project again")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise RecipeError(f"{path}: no column {missing[0]!r}, expected {', '.join(columns)} (tab-separated)")
    return rows


def _read_plain_map(path: Path) -> dict[str, str] | None:
    """The table where every line has just two fields and every key stands once, ten times faster; None elsewhere."""
    if not path.is_file():
        return None
    text = _read_text(path)
    # A token of its own at each line's end shows that all lines have the same number of fields.
    tokens = text.removesuffix("\n").replace("\n", " \0 ").split()
    num_ends = len(tokens) // 3
    if len(tokens) % 3 != 2 or tokens[2::3] != ["\0"] * num_ends or tokens.count("\0") != num_ends:
        return None
    table = dict(zip(tokens[0::3], tokens[1::3], strict=True))
    return table if len(table) == len(tokens[0::3]) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text; write the table in UTF-8") from None


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
        shown = [
            f"{path}:{number}: is a command: {line.strip()!r}"
            for number, line in enumerate(_read_text(Path(path)).split("\n"), start=1)
            if commands.intersection(line.split(maxsplit=1)[:1])
        ]
        raise RecipeError(
            f"{path}: {len(commands)} of {len(places)} entries are no files; run the commands once and name the "
            "files that they make:" + first_few(shown)
        )


def write_rows(path: Path | str, rows: Iterable[Sequence[object]], separator: str = " ") -> None:
    """Write rows atomically, fields joined by ``separator``, overwriting ``path``."""
    write_text(path, "".join(separator.join(map(str, row)) + "\n" for row in rows))
