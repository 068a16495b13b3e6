"""The chart of paired differences."""

import json

import pytest

from wespeaker_qm.evaluate.comparison import Comparison, comparisons_from_json
from wespeaker_qm.evaluate.figures import figure_named
from wespeaker_qm.report.differences import WIDTH, Difference, charted, text_chart


def compared(figure, one, two, difference, low=None, high=None, reason=None):
    p_value = None if low is None else 0.5
    return Comparison(figure_named(figure), one, two, difference, low, high, p_value, p_value, reason)


COMPARISONS = [
    compared("EER", "run", "asnorm", -0.02, -0.03, -0.01),
    compared("EER", "run", "calibrated", -0.02, -0.03, -0.01),
    compared("EER", "run", "ltas", 0.05, -0.05, 0.15),
    compared("EER", "asnorm", "ltas", 0.07, -0.02, 0.17),
    compared("minDCF 0.01", "run", "ltas", 0.5, 0.4, 0.6),
    compared("TAR@FAR 1e-2", "run", "asnorm", 0.1, 0.05, 0.15),
    compared("TAR@FAR 1e-2", "run", "calibrated", 0.1, 0.05, 0.16),
    compared("TAR@FAR 1e-2", "run", "ltas", -0.2, reason="3 misses"),
]


def test_right_is_better_whatever_the_figure():
    """Less is better of errors, more of accepted targets; minDCF is not a figure of the reports."""
    differences = charted(COMPARISONS)
    assert differences.reference == "run"
    eer, tar = differences.axes
    assert (eer.title, tar.title) == ("EER %", "TAR % at FAR 1e-2")
    assert [(each.system, str(each)) for each in eer.differences] == [
        ("asnorm, calibrated", "+2.00 (+1.00 to +3.00)"),
        ("ltas", "-5.00 (-15.00 to +5.00)"),
    ]
    assert [(each.system, str(each)) for each in tar.differences] == [
        ("asnorm", "+10.00 (+5.00 to +15.00)"),
        ("calibrated", "+10.00 (+5.00 to +16.00)"),
        ("ltas", "-20.00 (no interval: 3 misses)"),
    ]
    assert [each.leaves_0_out for each in (*eer.differences, *tar.differences)] == [True, False, True, True, False]


def test_all_lie_on_the_axis_with_no_difference_in_the_middle():
    for axis in charted(COMPARISONS).axes:
        assert axis.place(0) == 0.5
        ends = [end for each in axis.differences for end in (each.better_by, *(each.interval or ()))]
        assert all(0 < axis.place(end) < 1 for end in ends)
        assert axis.place(2.0) - axis.place(1.0) == pytest.approx(axis.place(1.0) - axis.place(0.0))
    (axis,) = charted([compared("EER", "a", "b", 0.0, 0.0, 0.0)]).axes
    assert axis.place(0) == 0.5


def test_the_chart_in_letters():
    text = text_chart(charted(COMPARISONS[:3], {"asnorm": "AS", "calibrated": "cal", "ltas": "L", "run": "R"}.get))
    space = " " * (WIDTH // 2)
    assert text.splitlines() == [
        f"EER %    {'worse':^{WIDTH // 2}}|{'better':^{WIDTH // 2}}",
        f"AS, cal  {space}|-*--{' ' * 16}  +2.00 (+1.00 to +3.00)",
        f"L          {'-' * 12}o{'-' * 12}{' ' * 14}  -5.00 (-15.00 to +5.00)",
    ]


def test_without_comparisons_of_such_figures_there_is_no_chart():
    assert charted([]) is None
    assert charted([COMPARISONS[4]]) is None


def test_comparisons_are_read_back_and_unknown_figures_passed_over():
    contents = json.loads(json.dumps([each.to_json() for each in COMPARISONS]))
    assert comparisons_from_json([*contents, {**contents[0], "figure": "of a later version"}]) == COMPARISONS


@pytest.mark.parametrize(("value", "shown"), [(-1e-5, "0.00"), (1e-5, "0.00"), (-0.01, "-0.01"), (0.01, "+0.01")])
def test_nothing_has_no_sign(value, shown):
    assert str(Difference("a", value, (-1.0, 1.0), None, 2)) == f"{shown} (-1.00 to +1.00)"
