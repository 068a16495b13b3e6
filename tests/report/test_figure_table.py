"""The table of figures, folded."""

from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import CLLR, EER, MIN_DCF, TAR_AT_FAR
from wespeaker_qm.report.figure_table import figure_table, share_columns
from wespeaker_qm.report.text import NOT_MEASURABLE

EER_, TAR, LOW, LOWEST = Figure(EER), *(Figure(TAR_AT_FAR, far) for far in (1e-2, 1e-4, 1e-5))
DCF, LLR = Figure(MIN_DCF, 0.01), Figure(CLLR)


def test_what_no_system_can_measure_is_a_line_and_what_one_can_is_a_row():
    a = {EER_: "3", TAR: "90", LOW: NOT_MEASURABLE, LOWEST: NOT_MEASURABLE}
    table = figure_table({"a": a, "b": {EER_: "4", TAR: NOT_MEASURABLE, LOW: NOT_MEASURABLE}})
    assert table.header == ["figure", "a", "b"]
    assert table.rows == [["EER %", "3", "4"], ["TAR % at FAR 1e-2", "90", NOT_MEASURABLE]]
    assert table.not_measurable == "Not measurable with so few non-target trials: TAR % at FAR 1e-4, 1e-5."
    by_name = figure_table({"a": a}, lambda figure: figure.name)
    assert by_name.not_measurable.endswith(": TAR@FAR 1e-4, 1e-5.")
    assert [row[0] for row in by_name.rows] == ["EER", "TAR@FAR 1e-2"]
    assert figure_table({"a": {EER_: "3"}}).not_measurable == ""


def test_systems_share_a_column_only_if_no_cell_differs():
    asnorm = {EER_: "2 (1 to 3)", DCF: "0.5"}
    calibrated = {**asnorm, LLR: "0.6"}
    close = {**asnorm, DCF: "0.4"}
    unsure = {**asnorm, EER_: "2 (no interval: 3 misses)"}
    table = figure_table({"trained": {EER_: "4", DCF: "0.7"}, "asnorm": asnorm, "calibrated": calibrated, "c": close})
    assert table.header == ["figure", "trained", "asnorm, calibrated", "c"]
    assert table.rows == [
        ["EER %", "4", "2 (1 to 3)", "2 (1 to 3)"],
        ["minDCF 0.01", "0.7", "0.5", "0.4"],
        ["Cllr", "", "0.6", ""],
    ]
    assert list(share_columns({"a": asnorm, "b": unsure})) == ["a", "b"]
    other_llr = {**asnorm, LLR: "0.9"}
    assert list(share_columns({"a": asnorm, "b": calibrated, "c": other_llr})) == ["a, b", "c"]
    assert list(share_columns({"a": {EER_: "1"}, "b": {DCF: "1"}})) == ["a", "b"], "nothing says that they are the same"
