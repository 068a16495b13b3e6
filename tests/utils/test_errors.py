"""How messages list what is wrong."""

import pytest

from wespeaker_qm.utils.errors import RecipeError, first_few, nearest, shown, shown_line


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
