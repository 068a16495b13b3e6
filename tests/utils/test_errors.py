"""How messages list what is wrong."""

import os

import pytest

from wespeaker_qm.utils.errors import RecipeError, first_few, nearest, printable, refuse_no_file, shown, shown_line


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ""),
        (1, "\n  item 0"),
        (5, "\n  item 0\n  item 1\n  item 2\n  item 3\n  item 4"),
        (6, "\n  item 0\n  item 1\n  item 2\n  item 3\n  item 4\n  ... and 1 more"),
        (100, "\n  item 0\n  item 1\n  item 2\n  item 3\n  item 4\n  ... and 95 more"),
    ],
)
def test_five_are_shown_and_the_others_counted(count, expected):
    assert first_few([f"item {number}" for number in range(count)]) == expected


def test_no_line_of_a_message_is_longer_than_a_screen():
    long = "x" * 10_000_000
    lines = str(RecipeError(f"wav.scp: found {long!r}, expected a path\n  {long}; prepare again")).split("\n")
    assert [len(line) for line in lines] == [1500, 1500]
    assert lines[0].startswith("wav.scp: found 'xxx")
    assert lines[0].endswith("xxx', expected a path")
    assert lines[1].endswith("; prepare again")
    assert str(RecipeError("short\n\nmessage")) == "short\n\nmessage"


@pytest.mark.parametrize("value", ["x" * 100, b"x" * 100, b"\xff" * 10_000_000, "ü" * 61, ["a"] * 1000, 10**100])
def test_what_is_shown_has_sixty_characters(value):
    assert len(shown(value)) <= 60
    assert "..." in shown(value)


def test_short_values_are_shown_whole():
    assert shown("x" * 58) == repr("x" * 58)
    assert shown("Müller".encode()) == "'Müller'"
    assert shown(None) == "None"


def test_the_nearest_names_of_a_long_one_are_found_by_its_beginning():
    assert nearest("seed" + "x" * 10_000_000, ["seed", "num_rooms", "noise"]).startswith("seed")


def test_a_line_has_room_for_a_trial_with_its_score():
    line = "id10270/5r0dWxy17C8/00001.wav id11251/zzz0dWxy17C/00002.wav -0.123456789 nontarget"
    assert shown_line(line) == repr(line)
    assert len(shown_line(line * 100)) == 120
    assert shown_line(line * 100).endswith("(8,200 characters)")


def test_no_message_has_more_lines_than_anybody_reads():
    lines = str(RecipeError("\n".join(f"{number}: unknown key" for number in range(1000)))).split("\n")
    assert lines[98:] == ["98: unknown key", "... and 901 more lines"]
    assert str(RecipeError("\n" * 99)) == "\n" * 99


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zoë Müller\t1\n", "Zoë Müller\t1\n"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x08\x7f\x9b2J", r"a\rb\x08\x7f\x9b2J"),
        ("\u202egnp.exe\u2066\u200f\u2028", r"\u202egnp.exe\u2066\u200f\u2028"),
        ("a\udcffb\ufeff", r"a\udcffb\ufeff"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_what_a_terminal_would_obey_is_spelt_out(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected
    assert str(RecipeError(f"x: {text}")) == f"x: {expected}"


def test_numbers_and_brackets_beyond_what_python_writes_are_shown_by_their_kind():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(16**10_000) == "int too large to be shown"
    assert shown([16**10_000]) == "list too large to be shown"
    assert shown(deep) == "list too large to be shown"
    while deep:  # Python frees it a level at a time, else all at once
        deep = deep[0]


def test_pipes_and_devices_are_refused_files_and_folders_are_not(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(
            RecipeError, match=r"is a pipe, a socket or a device, expected a file: move it away, or write"
        ):
            refuse_no_file(name)
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none"):
        refuse_no_file(path)
