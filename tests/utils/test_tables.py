"""Kaldi tables."""

from pathlib import Path

import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.tables import read_map, read_rows, write_rows


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
    [("a 1\nb\n", r"table:2: 1 field\(s\) in 'b', expected 2"), ("a 1\na 2\n", "table: key 'a' stands twice")],
)
def test_broken_tables_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_map(path)


def test_a_missing_table_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file; run the stage that makes it"):
        read_map(tmp_path / "absent")
