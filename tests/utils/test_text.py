"""Text files, whoever wrote them, and how what is none is told."""

import re
import subprocess

import pytest

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.text import (
    decode,
    fields_of,
    json_or_none,
    lines_of,
    number,
    parse_json,
    read_names,
    read_text,
)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_marks_and_line_ends_are_no_part_of_the_text(tmp_path, mark, end):
    (tmp_path / "names").write_bytes(mark + end.join([b"", "José".encode(), b" \t ", b" ben ", b""]))
    assert read_text(tmp_path / "names") == "\nJosé\n \t \n ben \n"
    assert read_names(tmp_path / "names") == ["José", "ben"]
    assert list(lines_of(read_text(tmp_path / "names"))) == [(2, "José"), (4, "ben")]


def test_spaces_of_unicode_belong_to_names_and_end_no_line():
    name = "a\u202fb\u00a0c\u2028d\x85e"
    assert [line.text for line in lines_of(f"{name} 1\n")] == [f"{name} 1"]
    assert fields_of(f"{name} \t 1  2 ") == [name, "1", "2", ""]
    assert fields_of(f"{name} \t 1  2", 2) == [name, "1  2"]


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", "LATIN1"), ("utf-16", "UTF-16")])
def test_the_advice_for_another_encoding_works(tmp_path, encoding, name):
    text = "anna 1\n" * 2 + "Müller 3\n"
    (tmp_path / "OLD").write_bytes(text.encode(encoding))
    with pytest.raises(RecipeError, match=r"OLD:\d: not UTF-8 text: found .*; write it in UTF-8") as caught:
        read_text(tmp_path / "OLD")
    if name == "LATIN1":
        assert r"OLD:3: not UTF-8 text: found 'M\xfcller 3'" in str(caught.value)
    command = re.search("`(.*)`", str(caught.value))[1]
    assert name in command
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert read_text(tmp_path / "NEW") == text


def test_the_line_is_right_behind_a_mark(tmp_path):
    with pytest.raises(RecipeError, match=r"x:2: not UTF-8 text: found '\\xff'"):
        decode(b"\xef\xbb\xbfa\n\xff\n", "x")


def test_what_was_cut_by_a_loss_of_power_is_no_text():
    with pytest.raises(RecipeError, match=r"^x:2: not text, there is a NUL: found 'b.*; extract again$"):
        decode(b"a 1\nb\0\0\0", "x", "extract again")


def test_what_cannot_be_read_is_named_with_the_remedy(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot read this file: Is a directory; train again$"):
        read_text(tmp_path, "train again")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "{'a': 1}"])
def test_what_is_no_json_is_told_in_few_words(tmp_path, text):
    with pytest.raises(RecipeError, match=r"metrics\.json: not JSON \(.*\): found .*; evaluate again$") as caught:
        parse_json(text, "metrics.json", "evaluate again")
    assert len(str(caught.value)) < 300
    (tmp_path / "x").write_text(text)
    assert json_or_none(tmp_path / "x") is None


def test_json_may_begin_with_a_mark(tmp_path):
    assert parse_json('\ufeff{"a": 1}', "x", "") == {"a": 1}
    (tmp_path / "x").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert json_or_none(tmp_path / "x") == {"a": 1}
    assert json_or_none(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [("long", "is no number"), ("1_0", "is no number"), ("0,5", "is no number"), ("", "is no number"),
     ("nan", "is not finite"), ("-inf", "is not finite"), ("1e999", "is not finite")],
)  # fmt: skip
def test_what_is_no_number_is_not_called_infinite(text, fault):
    with pytest.raises(RecipeError, match=rf"^utt2dur: '{text}' {fault}, expected seconds$"):
        number(text, "utt2dur", "seconds")
    assert number("-1.5e-3", "utt2dur", "seconds") == -0.0015
