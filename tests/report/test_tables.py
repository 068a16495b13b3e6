"""Tables of figures and of differences."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from wespeaker_qm.evaluate.figures import figure_named, in_table_order, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_list, system_result
from wespeaker_qm.report.tables import comparison_table, figures_table, markdown_table, markdown_text
from wespeaker_qm.trials.lists import read_trial_table

SPEAKER = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trials").write_text("a1 a2 target\na1 b1 nontarget\na2 b1 nontarget\n")
    (tmp_path / "good.score").write_text("a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 b1 0.2 nontarget\n")
    (tmp_path / "bad.score").write_text("a1 a2 0.15 target\na1 b1 0.1 nontarget\na2 b1 0.2 nontarget\n")
    return tmp_path


NAMES = {
    "a|b": r"a\|b",
    "**bold**": r"\*\*bold\*\*",
    "<img src=x onerror=alert(1)>": r"\<img src=x onerror=alert(1)>",
    "</script>": r"\</script>",
    "<!-- x": r"\<!-- x",
    "[x](javascript:alert(1))": r"\[x\](javascript:alert(1))",
    "`rm -rf`": r"\`rm -rf\`",
    "# heading": r"\# heading",
    "> quote": r"\> quote",
    "- item": r"\- item",
    "1. item": r"1\. item",
    "~~gone~~": r"\~\~gone\~\~",
    "_it_": r"\_it\_",
    "__init__": r"\_\_init\_\_",
    "a\n\nb": "a b",
    "&lt;": r"\&lt;",
    "\\": r"\\",
    "===": r"\===",
    "qmargin_a1.5": "qmargin_a1.5",
    "5 < 6 & 7": "5 < 6 & 7",
    "-0.5 to +1.2": "-0.5 to +1.2",
}
"""Name -> what Markdown shows as just that; each was read back with markdown-it, which follows CommonMark."""


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names_in_markdown(name):
    assert markdown_text(name) == NAMES[name]
    table = markdown_table(["system", name], [[name, "1.00"]]).split("\n")
    assert len(table) == 3
    assert table[0].startswith("| system") and table[0].endswith(f" {NAMES[name].rjust(4)} |")
    assert table[2].startswith(f"| {NAMES[name]} ") and table[2].endswith(" 1.00 |")


def test_markdown_tables_are_aligned():
    lines = markdown_table(["system", "x"], [["a", "1.00"], ["longer name", "2"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3] == "| longer name |    2 |"


def difference(figure, one, two, estimate, low, high, p_value, p_holm, reason=None):
    return SimpleNamespace(
        figure=figure_named(figure),
        one=one,
        two=two,
        difference=estimate,
        low=low,
        high=high,
        p_value=p_value,
        p_holm=p_holm,
        reason=reason,
    )


def test_differences_of_rates_are_in_per_cent_and_those_of_costs_are_not():
    table = comparison_table(
        [
            difference("EER", "a", "b", 0.01234, -0.00512, 0.03, 0.0123, 0.0369),
            difference("minCllr", "a", "c", -0.01234, -0.05, 0.00016, 0.5, 1.0),
            difference("FAR@TAR 0.9", "b", "c", 0.5, 0.25, 0.75, 0.004, 0.004),
            difference("TAR@FAR 1e-3", "b", "c", 0.5, None, None, None, None, "3 misses"),
        ],
        {"a": "A", "b": "B", "c": "C"}.__getitem__,
    )
    header, rule, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    assert header == ["difference", "estimate", "95 % interval", "p", "p, all pairs (Holm)"]
    assert [cell.strip("-") for cell in rule] == [":", ":", ":", ":", ":"]
    assert lines == [
        ["EER: B less A", "+1.23", "-0.51 to +3.00", "0.012", "0.037"],
        ["minCllr: C less A", "-0.0123", "-0.0500 to +0.0002", "0.500", "1.000"],
        ["FAR@TAR 0.9: C less B", "+50.00", "+25.00 to +75.00", "0.004", "0.004"],
        ["TAR@FAR 1e-3: C less B", "+50.00", "none: 3 misses", "none", "none"],
    ]


def test_a_table_of_figures_by_hand(files):
    """The good system errs nowhere; the bad one accepts one of two non-targets before its only target."""
    trials = read_trial_table(files / "trials")
    systems = evaluate_list(trials, {name: files / f"{name}.score" for name in ("good", "bad")}, SPEAKER).systems
    table, not_measurable = figures_table(systems).split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    cells = {name: (good, bad) for name, good, bad in lines}
    assert cells["figure"] == ("good", "bad")
    assert cells["EER %"] == ("0.00", "50.00")
    assert cells["EER % on the convex hull"] == ("0.00", "33.33")  # hull from (0, 0) over (1/2, 1): 1 - 2 x = x
    assert cells["FAR % at TAR 0.9"] == ("0.000", "50.000")
    fars = "1e-1, 1e-2, 1e-3, 1e-4, 1e-5"
    assert not_measurable == f"Not measurable with so few non-target trials: TAR % at FAR {fars}."
    assert not any("TAR % at FAR" in name for name in cells)
    # Two operating points with p = 0.01: reject all costs 0.01, accept one costs 0.99 / 2; divided by 0.01.
    assert cells["minDCF 0.01"] == ("0.000", "1.000")
    # The bin of score 0.1 to 0.15 holds the target and a non-target of two: (log2(1 + 1/2) + log2(1 + 2) / 2) / 2.
    assert cells["minCllr"] == ("0.000", "0.689")


def test_every_line_has_the_interval_of_its_figure_or_the_reason_for_none():
    scores, is_target = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, True, False])
    figures = wanted_figures(fars=(0.5,), tars=(0.9,), p_targets=(0.01,), is_llr=True)
    names = {
        "EER": ("EER %", 100),
        "EER hull": ("EER % on the convex hull", 100),
        "TAR@FAR 5e-1": ("TAR % at FAR 5e-1", 100),
        "FAR@TAR 0.9": ("FAR % at TAR 0.9", 100),
        "minDCF 0.01": ("minDCF 0.01", 1),
        "minCllr": ("minCllr", 1),
        "Cllr": ("Cllr", 1),
        "actDCF 0.01": ("actDCF 0.01", 1),
    }
    measured = system_result(scores, is_target, figures)
    intervals = {figure_named(name): (number / 100, number / 10) for number, name in enumerate(names, start=1)}
    sure = dataclasses.replace(measured, intervals=intervals)
    unsure = dataclasses.replace(measured, reasons={figure_named(name): f"of {name}" for name in names})
    plain = system_result(scores, is_target, [figure for figure in figures if not figure.kind.needs_llr])
    table = figures_table({"sure": sure, "unsure": unsure, "plain": plain})
    lines = {line[0]: line[1:] for line in ([c.strip() for c in r.strip("|").split("|")] for r in table.splitlines())}
    for name, (line, factor) in names.items():
        digits = 3 if factor == 1 or name.startswith("FAR@") else 2
        low, high = (f"{factor * end:.{digits}f}" for end in intervals[figure_named(name)])
        assert lines[line][0].endswith(f" ({low} to {high})")
        assert lines[line][1].endswith(f" (no interval: of {name})")
        assert "(" not in lines[line][2]
    assert lines["Cllr"][2] == lines["actDCF 0.01"][2] == ""
    assert len(lines) == 2 + len(in_table_order(figures))  # header and rule
