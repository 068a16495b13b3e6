"""How messages list what is wrong."""

import pytest

from wespeaker_qm.utils.errors import first_few


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
