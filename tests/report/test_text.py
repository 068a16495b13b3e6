"""Figures, and what they are of, in words."""

from types import SimpleNamespace

import pytest

from wespeaker_qm.evaluate.figures import figure_named
from wespeaker_qm.report.text import counts, show_figure


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ("EER", "12.35 (10.00 to 15.00)"),
        ("TAR@FAR 1e-3", "12.35 (10.00 to 15.00)"),
        ("FAR@TAR 0.9", "12.346 (10.000 to 15.000)"),
        ("minDCF 0.01", "0.123 (0.100 to 0.150)"),
        ("actDCF 0.01", "0.123 (0.100 to 0.150)"),
        ("minCllr", "0.123 (0.100 to 0.150)"),
        ("Cllr", "0.123 (0.100 to 0.150)"),
    ],
)
def test_rates_are_shown_in_per_cent_and_costs_as_they_are(figure, shown):
    assert show_figure(figure_named(figure), 0.123456, (0.1, 0.15)) == shown
    assert show_figure(figure_named(figure), 0.123456) == shown.split()[0]


def test_trials_are_counted_in_words():
    counted = {"num_targets": 1234, "num_nontargets": 5678901, "num_utterances": 99, "num_speakers": None}
    text = "1,234 target and 5,678,901 non-target trials of 99 utterances"
    assert counts(SimpleNamespace(**counted)) == text
    assert counts(SimpleNamespace(**counted | {"num_speakers": 1251})) == f"{text} by 1,251 speakers"
