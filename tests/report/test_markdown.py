"""Cells and words of the report."""

from types import SimpleNamespace

from wespeaker_qm.report.markdown import counts, latex_cell, latex_text


def test_what_latex_reads_as_its_own_is_escaped():
    assert latex_text("50 % of a_b & {c} #1 $x") == r"50 \% of a\_b \& \{c\} \#1 \$x"
    assert latex_text("\\input /etc/passwd\n\\write18{ls} ^^5c~") == (
        r"\textbackslash{}input /etc/passwd \textbackslash{}write18\{ls\} "
        r"\textasciicircum{}\textasciicircum{}5c\textasciitilde{}"
    )


def test_rates_have_two_digits_and_costs_three_and_so_have_their_intervals():
    assert latex_cell(12.3456, None, 100) == "12.35"
    assert latex_cell(0.123456, None, 1) == "0.123"
    assert latex_cell(12.3456, (0.1, 0.155), 100) == r"12.35 {\scriptsize [10.00, 15.50]}"
    assert latex_cell(0.123456, (0.1, 0.155), 1) == r"0.123 {\scriptsize [0.100, 0.155]}"


def test_trials_are_counted_in_words():
    counted = {"num_targets": 1234, "num_nontargets": 5678901, "num_utterances": 99, "num_speakers": None}
    text = "1,234 target and 5,678,901 non-target trials of 99 utterances"
    assert counts(SimpleNamespace(**counted)) == text
    assert counts(SimpleNamespace(**counted | {"num_speakers": 1251})) == f"{text} by 1,251 speakers"
