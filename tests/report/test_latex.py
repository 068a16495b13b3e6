"""Cells of the rows for LaTeX."""

from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import EER, MIN_CLLR
from wespeaker_qm.report.latex import latex_cell, latex_text


def test_what_latex_reads_as_its_own_is_escaped():
    assert latex_text("50 % of a_b & {c} #1 $x") == r"50 \% of a\_b \& \{c\} \#1 \$x"
    assert latex_text("\\input /etc/passwd\n\\write18{ls} ^^5c~") == (
        r"\textbackslash{}input /etc/passwd \textbackslash{}write18\{ls\} "
        r"\textasciicircum{}\textasciicircum{}5c\textasciitilde{}"
    )


def test_rates_have_two_digits_and_costs_three_and_so_have_their_intervals():
    assert latex_cell(Figure(EER), 0.123456, None) == "12.35"
    assert latex_cell(Figure(MIN_CLLR), 0.123456, None) == "0.123"
    assert latex_cell(Figure(EER), 0.123456, (0.1, 0.155)) == r"12.35 {\scriptsize [10.00, 15.50]}"
    assert latex_cell(Figure(MIN_CLLR), 0.123456, (0.1, 0.155)) == r"0.123 {\scriptsize [0.100, 0.155]}"
