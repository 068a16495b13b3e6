"""All figures of one trial list, and what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wespeaker_qm.evaluate.bootstrap import FigureSet
from wespeaker_qm.evaluate.metrics import (
    comparison_table,
    evaluate_list,
    figures_table,
    markdown_table,
    show_figure,
    system_result,
)
from wespeaker_qm.evaluate.operating_points import OperatingPoint
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.utils.errors import RecipeError

SPEAKER = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trials").write_text("a1 a2 target\na1 b1 nontarget\na2 b1 nontarget\n")
    (tmp_path / "good.score").write_text("a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 b1 0.2 nontarget\n")
    (tmp_path / "bad.score").write_text("a1 a2 0.15 target\na1 b1 0.1 nontarget\na2 b1 0.2 nontarget\n")
    return tmp_path


def test_every_system_is_measured(files):
    trials = read_trial_table(files / "trials")
    result = evaluate_list(trials, {"good": files / "good.score", "bad": files / "bad.score"}, SPEAKER)
    assert (result.num_targets, result.num_nontargets, result.num_utterances, result.num_speakers) == (1, 2, 3, 2)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(content["systems"]) == ["good", "bad"]
    assert content["systems"]["good"]["eer"] == 0
    assert content["systems"]["bad"]["eer"] == 0.5
    assert content["systems"]["good"]["min_dcf"]["0.01"] == {"cost": 0, "threshold": 0.9}
    assert content["systems"]["good"]["tar_at_far"] == dict.fromkeys(("1e-1", "1e-2", "1e-3", "1e-4", "1e-5"))
    assert content["systems"]["good"]["far_at_tar"]["0.9"]["far"] == 0
    assert content["resampling"] is None  # of two speakers nothing can be said of others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a1 a2 0.9 target\na1 b1 0.1 nontarget\n", "1 of the 3 trials of .* have no score.*\n  a2 b1"),
        ("a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 c1 0.2 nontarget\n", "1 of the 3 .* have no score.*\n  a2 b1"),
        (
            "a1 a2 1 target\na1 b1 0 nontarget\na2 b1 0 nontarget\na2 c1 0 nontarget\n",
            "1 trials are not in .*\n  a2 c1",
        ),
        (
            "a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 b1 0.2 target\n",
            "1 trials have another label than in .*\n  a2 b1",
        ),
    ],
    ids=["missing", "other", "extra", "label"],
)
def test_scores_of_other_trials_are_refused(files, text, message):
    (files / "other.score").write_text(text)
    with pytest.raises(RecipeError, match=r"(?s)other\.score: " + message):
        evaluate_list(read_trial_table(files / "trials"), {"other": Path(files / "other.score")}, SPEAKER)


def test_scores_in_another_order_are_brought_into_that_of_the_list(files):
    lines = (files / "good.score").read_text().splitlines(keepends=True)
    (files / "turned.score").write_text("".join(reversed(lines)))
    trials = read_trial_table(files / "trials")
    paths = {name: files / f"{name}.score" for name in ("good", "turned")}
    good, turned = evaluate_list(trials, paths, SPEAKER).systems.values()
    assert good.to_json() == turned.to_json()


def test_labels_that_disagree_with_the_speakers_are_refused(files):
    with pytest.raises(RecipeError, match=r"(?s)2 labels disagree with utt2spk.*\n  a1 a2 target\n  a2 b1 nontarget"):
        evaluate_list(read_trial_table(files / "trials"), {}, {"a1": "a", "a2": "b", "b1": "b"})


def test_utterances_without_speaker_are_refused(files):
    with pytest.raises(RecipeError, match=r"1 utterances are not in utt2spk.*\n  b1"):
        evaluate_list(read_trial_table(files / "trials"), {}, {"a1": "a", "a2": "a"})


def test_markdown_tables_are_aligned():
    lines = markdown_table(["system", "x"], [["a", "1.00"], ["longer name", "2"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[3] == "| longer name |    2 |"


def difference(figure, one, two, estimate, low, high, p_value, p_holm, reason=None):
    return SimpleNamespace(
        figure=figure,
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
    assert show_figure(figure, 0.123456, (0.1, 0.15)) == shown
    assert show_figure(figure, 0.123456) == shown.split()[0]


def test_a_table_of_figures_by_hand(files):
    """The good system errs nowhere; the bad one accepts one of two non-targets before its only target."""
    trials = read_trial_table(files / "trials")
    systems = evaluate_list(trials, {name: files / f"{name}.score" for name in ("good", "bad")}, SPEAKER).systems
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in figures_table(systems).splitlines()]
    cells = {name: (good, bad) for name, good, bad in lines}
    assert cells["figure"] == ("good", "bad")
    assert cells["EER %"] == ("0.00", "50.00")
    assert cells["EER % on the convex hull"] == ("0.00", "33.33")  # hull from (0, 0) over (1/2, 1): 1 - 2 x = x
    assert cells["FAR % at TAR 0.9"] == ("0.000", "50.000")
    assert cells["TAR % at FAR 1e-1"] == ("not measurable", "not measurable")
    # Two operating points with p = 0.01: reject all costs 0.01, accept one costs 0.99 / 2; divided by 0.01.
    assert cells["minDCF 0.01"] == ("0.000", "1.000")
    # The bin of score 0.1 to 0.15 holds the target and a non-target of two: (log2(1 + 1/2) + log2(1 + 2) / 2) / 2.
    assert cells["minCllr"] == ("0.000", "0.689")


def test_every_line_has_the_interval_of_its_figure_or_the_reason_for_none():
    scores, is_target = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, False, True, False])
    figures = FigureSet(fars=(0.5,), tars=(0.9,), p_targets=(0.01,), is_llr=True)
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
    # A TAR that is not measurable on two non-targets is shown as one that is.
    measured = dataclasses.replace(measured, tar_at_far={0.5: OperatingPoint(0.9, 0.5, 1.0, 1)})
    intervals = {name: (number / 100, number / 10) for number, name in enumerate(names, start=1)}
    sure = dataclasses.replace(measured, intervals=intervals)
    unsure = dataclasses.replace(measured, reasons={name: f"of {name}" for name in names})
    plain = system_result(scores, is_target, dataclasses.replace(figures, is_llr=False))
    table = figures_table({"sure": sure, "unsure": unsure, "plain": plain})
    lines = {line[0]: line[1:] for line in ([c.strip() for c in r.strip("|").split("|")] for r in table.splitlines())}
    for name, (line, factor) in names.items():
        digits = 3 if factor == 1 or name.startswith("FAR@") else 2
        low, high = (f"{factor * end:.{digits}f}" for end in intervals[name])
        assert lines[line][0].endswith(f" ({low} to {high})")
        assert lines[line][1].endswith(f" (no interval: of {name})")
        assert "(" not in lines[line][2]
    assert lines["Cllr"][2] == lines["actDCF 0.01"][2] == ""
    assert len(lines) == 2 + len(names)


def test_names_and_counts_of_the_figures_in_json(files):
    trials = read_trial_table(files / "trials")
    result = evaluate_list(trials, {"bad": files / "bad.score"}, SPEAKER)
    system = result.to_json()["systems"]["bad"]
    assert system["eer_hull"] == pytest.approx(1 / 3)
    assert system["min_cllr"] == pytest.approx((np.log2(1.5) + np.log2(3) / 2) / 2)
    assert system["far_at_tar"]["0.95"] == {"threshold": 0.15, "far": 0.5, "tar": 1.0, "false_accepts": 1}
    assert list(system["min_dcf"]) == ["0.01", "0.001"]
    assert "cllr" not in system
    with_llr = evaluate_list(trials, {"bad": files / "bad.score"}, SPEAKER, llr_systems=frozenset({"bad"}))
    llr = with_llr.to_json()["systems"]["bad"]
    costs = np.log2(1 + np.exp([-0.15, 0.1, 0.2]))
    assert llr["cllr"] == pytest.approx((costs[0] + costs[1:].mean()) / 2)
    assert llr["act_dcf"] == {"0.01": 1.0, "0.001": 1.0}  # thresholds 4.6 and 6.9 reject all
