import argparse

import pytest

from wespeaker_qm.utils import arguments
from wespeaker_qm.utils.arguments import number, true_or_false, whole_number


def test_only_true_and_false_are_booleans():
    assert true_or_false("true") is True
    assert true_or_false("false") is False
    for text in ("True", "False", "1", "no", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected true or false"):
            true_or_false(text)


def test_whole_numbers_keep_their_limits():
    assert [whole_number(1, 3)(text) for text in ("1", "+2", "3")] == [1, 2, 3]
    assert whole_number(2, also=0)("0") == 0
    for text in ("0", "4", "-1", "1.0", "1_0", " 1", "nan", "inf", "", "٣"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 3"):
            whole_number(1, 3)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="found '1', expected 0 or a whole number of at least 2"):
        whole_number(2, also=0)("1")


def test_numbers_are_finite_and_within_their_limits():
    assert [number(0, 1)(text) for text in ("0", "1", ".5", "1e-3", "1.")] == [0, 1, 0.5, 0.001, 1]
    assert number(0)("1e300") == 1e300
    for text in ("nan", "NaN", "inf", "-inf", "infinity", "-0.1", "1.1", "1e400", "1_0", "", "half", "0x1"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 0 to 1"):
            number(0, 1)(text)
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number between 1e-12 and 1"):
            arguments.RATE(text)
    for text in ("0", "1"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.RATE(text)
    for text in ("inf", "1e400", "nan", "-1e-9"):
        with pytest.raises(argparse.ArgumentTypeError, match="of at least 0"):
            arguments.SECONDS(text)


def test_a_fraction_or_a_count_is_not_both():
    found = [arguments.fraction_or_count(text) for text in ("0", "0.5", "1", "2", "12")]
    assert found == [0, 0.5, 1, 2, 12]
    assert [type(each) for each in found] == [float, float, float, int, int]
    for text in ("1.5", "2.0", "-1", "nan", "1e400", "", "many", "-0.1"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}', expected a fraction from 0 to 1, or a "):
            arguments.fraction_or_count(text)


@pytest.mark.parametrize(
    ("text", "is_seed"), [("0", True), (str(2**63 - 1), True), (str(2**63), False), (str(2**64), False), ("-1", False)]
)
def test_a_seed_is_one_that_every_generator_takes(text, is_seed):
    if is_seed:
        assert arguments.SEED(text) == int(text)
    else:
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.SEED(text)


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        ("COUNT", ["1"], ["0"]),
        ("COUNT_OR_NONE", ["0", "1"], ["-1"]),
        ("PROCESSES", ["1", "4096"], ["0", "4097"]),
        ("READERS", ["0", "4096"], ["-1", "4097"]),
        ("RESAMPLES", ["0", "2"], ["1", "-1"]),
        ("SAMPLE_RATE_HZ", ["4000", "384000"], ["3999", "384001"]),
        ("SECONDS", ["0", "1e-3"], ["-1e-3"]),
        ("FRACTION", ["0", "1"], ["-1e-9", "1.000001"]),
        ("RATE", ["1e-9", "0.999999"], ["0", "1", "1.000001"]),
    ],
)
def test_every_option_takes_the_ends_of_its_range_and_nothing_beyond(kind, taken, refused):
    convert = getattr(arguments, kind)
    assert [convert(text) for text in taken] == list(map(float, taken))
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
            convert(text)
