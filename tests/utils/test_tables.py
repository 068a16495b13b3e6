"""Kaldi tables."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import _plain_map, read_map, read_rows, refuse_commands, write_rows


def test_round_trip_keeps_order_and_spaces_in_the_last_field(tmp_path: Path) -> None:
    path = tmp_path / "wav.scp"
    write_rows(path, [("b", "/data/my voice.wav"), ("a", "x.wav")])
    assert read_map(path) == {"b": "/data/my voice.wav", "a": "x.wav"}
    assert list(read_map(path)) == ["b", "a"]


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("a 1\n\n  \nb 2\n")
    assert read_rows(path, 2) == [["a", "1"], ["b", "2"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a 1\nb\n", r"table:2: 1 field in 'b', expected 2"), ("a 1\na 2\n", "table:2: key 'a' stands twice")],
)
def test_broken_tables_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_map(path)


def test_a_missing_table_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file; run the stage that makes it"):
        read_map(tmp_path / "absent")


def test_what_stands_in_the_place_of_a_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, found in (
        ("folder", "is a folder, expected a file: move it away"),
        ("circle", "is a link to circle, which leads in a circle or to nothing: remove it"),
        ("link", "is a link to nothing, which leads in a circle or to nothing: remove it"),
        ("pipe", "is a pipe, a socket or a device, expected a file: move it away"),
    ):
        with pytest.raises(RecipeError, match=f"/{name}: {found}; run the stage that makes it"):
            read_map(tmp_path / name)


def table_or_refusal(text: str) -> dict[str, str] | str:
    """What a table says, a line at a time; or the number of the line with too few fields, or the key seen twice."""
    table: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if "\0" in line:
            return f":{number}: not text, there is a NUL: found {line!r}; put a file of text there"
    for number, line in enumerate(text.split("\n"), start=1):
        key, _, value = line.strip(" ").partition(" ")
        if key and not value.strip(" "):
            return f":{number}: 1 field in {line.strip(' ')!r}, expected 2 separated by white space"
        if key in table:
            return f":{number}: key {key!r} stands twice; keys must be unique"
        if key:
            table[key] = value.strip(" ")
    return table


FIELD = st.sampled_from(["a", "b", "c", "\0", "", "\x1f", "\u00a0", "é"])
LINE = st.lists(FIELD, max_size=4).map(" ".join)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINE, max_size=6), end=st.sampled_from(["", "\n"]))
def test_a_map_says_what_its_lines_say_one_by_one(tmp_path: Path, lines: list[str], end: str) -> None:
    path = tmp_path / "table"
    path.write_text("\n".join(lines) + end)
    expected = table_or_refusal("\n".join(lines))
    try:
        found: object = read_map(path)
    except RecipeError as error:
        found = re.sub("[;:] correct it, or make it again .*", "", str(error).removeprefix(str(path)))
    assert found == expected
    if isinstance(found, dict):
        assert list(found.items()) == list(expected.items()), "the order of the file"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["a\n\nb 2\n", "a 1\n\nb\n", "a 1\nb\n\nc 3\n"])
def test_a_blank_line_does_not_stand_for_a_field(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"1 field in '[ab]', expected 2 separated by white space"):
        read_map(path)


def test_plain_tables_take_the_fast_way_and_others_do_not() -> None:
    for text in ("a 1\nb\u00a0c 2\n", "a\t1\nb\u00a0c 2"):
        assert _plain_map(text) == {"a": "1", "b\u00a0c": "2"}
    for text in (
        *("a 1\nb 2 3\n", "a 1\n\nb 2\n", "a 1\na 2\n", "", "\n", "a  1\nb 2\n", " a 1\n", "a 1 \n", "a 1\n b 2\n"),
        *("a\n1 2\n", "a\x1f1 2\n", "a 1\fb 2\n", "a 1\nb\n", "a\nb\n"),
    ):
        assert _plain_map(text) is None


def test_rows_are_joined_by_the_separator_as_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "t", [("é", 1, 2.5), ("b", Path("x"), None)], separator="\t")
    assert (tmp_path / "t").read_bytes() == "é\t1\t2.5\nb\tx\tNone\n".encode()


@pytest.mark.parametrize("read", [read_map, lambda path: read_rows(path, 2)])
def test_a_table_in_another_encoding_names_the_line(tmp_path: Path, read) -> None:
    (tmp_path / "table").write_bytes("a 1\nb 2\nMüller 3\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"table:3: not UTF-8 text: found 'M\\xfcller 3'; write it in UTF-8"):
        read(tmp_path / "table")


@pytest.mark.parametrize("command", ["touch ran |", "|touch ran", "touch ran|", "| touch ran", "-"])
def test_commands_are_refused_with_their_lines(tmp_path, command):
    path = tmp_path / "wav.scp"
    path.write_text(f"a one.wav\n\nb {command}\nc two|three.wav\n")
    with pytest.raises(
        RecipeError, match=r"1 of 3 entries is no file.*\n  .*wav\.scp:3: is a command: 'b .*'$"
    ) as caught:
        refuse_commands(path, read_map(path))
    assert "two|three" not in str(caught.value)
