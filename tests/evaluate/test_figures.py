"""The figures as a table: a row is all that it takes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate import figures
from wespeaker_qm.evaluate.bootstrap import SortedTrials
from wespeaker_qm.evaluate.figure import Compared, Figure, FigureKind, Quantity
from wespeaker_qm.evaluate.figures import (
    EER,
    EER_HULL,
    TAR_AT_FAR,
    THRESHOLD_AT_FAR,
    figure_named,
    in_table_order,
    readings_to_json,
    values_from_json,
    wanted_figures,
)
from wespeaker_qm.evaluate.metrics import system_result
from wespeaker_qm.evaluate.operating_points import best_at_far, equal_error_rate, is_measurable
from wespeaker_qm.evaluate.scales import LINEAR, LOGIT

FRR_AT_FAR = FigureKind(
    name="FRR@FAR",
    title="FRR % at FAR",
    key="frr_at_far",
    quantity=Quantity.RATE,
    read=lambda curves, far: 1 - best_at_far(curves.roc, far).tar,
    rate_of="far",
    threshold=lambda curves, far: best_at_far(curves.roc, far).threshold,
    influence=lambda parts, threshold, _: parts.slope(threshold) * parts.nu(threshold) - parts.tau(threshold),
    scale=LOGIT,
    is_measurable=is_measurable,
    compared=Compared.REPORTED,
    in_papers=True,
    digits=2,
)
EER_THRESHOLD = FigureKind(
    name="threshold@EER",
    title="threshold at the EER",
    key="threshold_at_eer",
    quantity=Quantity.THRESHOLD,
    read=lambda curves, _: equal_error_rate(curves.roc).threshold,
    threshold=lambda curves, _: equal_error_rate(curves.roc).threshold,
    influence=lambda parts, threshold, _: parts.tau(threshold) + parts.nu(threshold),
    scale=LINEAR,
    compared=Compared.NOWHERE,
    digits=6,
)


@pytest.fixture
def two_more(monkeypatch):
    """Two more rows in the table, and no other code."""
    monkeypatch.setattr(figures, "KINDS", (*figures.KINDS, FRR_AT_FAR, EER_THRESHOLD))


@pytest.fixture
def files(tmp_path, monkeypatch, simulate):
    """Scores of two systems, in the current folder."""
    monkeypatch.chdir(tmp_path)
    speakers, is_target, scores = simulate(num_speakers=60, num_targets=2000, num_nontargets=3000)
    for name, shift in (("a", 0.0), ("b", 0.3)):
        lines = [
            f"s{one}/{trial}-e s{two}/{trial}-t {score + shift * target} {'target' if target else 'nontarget'}\n"
            for trial, (one, two, score, target) in enumerate(
                zip(speakers.enrolment, speakers.test, scores, is_target, strict=True)
            )
        ]
        Path(f"{name}.score").write_text("".join(lines))


def lines_of(table):
    """First cell -> the others, of the Markdown tables in a text."""
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|")
    return {row[0]: row[1:] for row in rows}


@pytest.mark.usefixtures("two_more", "files")
def test_a_new_figure_is_in_tables_and_json_with_interval_and_comparison(capsys):
    options = ["--num_resamples", "40", "--json", "out.json"]
    assert main(["metrics", "a.score", "b.score", "--far", "0.1", "1e-2", "1e-5", *options]) == 0
    text = capsys.readouterr().out
    lines = lines_of(text)
    content = json.loads(Path("out.json").read_text())
    one, two = content["systems"].values()
    for far in ("1e-1", "1e-2"):
        value = one["frr_at_far"][far]
        assert value == pytest.approx(1 - one["tar_at_far"][far]["tar"])
        cell = lines[f"FRR % at FAR {far}"][0]
        assert cell.startswith(f"{100 * value:.2f} (")
    low, high = one["intervals"]["FRR@FAR 1e-1"]
    assert (1 - high, 1 - low) == pytest.approx(one["intervals"]["TAR@FAR 1e-1"])
    assert lines["FRR % at FAR 1e-1"][0].endswith(f"({100 * low:.2f} to {100 * high:.2f})")
    assert one["no_interval"]["FRR@FAR 1e-2"] == one["no_interval"]["TAR@FAR 1e-2"] == "FAR below 1/59"  # effective
    assert one["frr_at_far"]["1e-5"] is None
    assert "FRR % at FAR 1e-5" not in lines
    assert "\nNot measurable with so few non-target trials: TAR % at FAR 1e-5; FRR % at FAR 1e-5.\n" in text
    assert two["threshold_at_eer"] == two["eer_threshold"]
    assert lines["threshold at the EER"][1].startswith(f"{two['eer_threshold']!r} (")
    by_figure = {each["figure"]: each for each in content["comparisons"]}
    frr, tar = by_figure["FRR@FAR 1e-1"], by_figure["TAR@FAR 1e-1"]
    assert frr["difference"] == pytest.approx(-tar["difference"])
    assert frr["p_holm"] == pytest.approx(tar["p_holm"])
    assert "threshold@EER" not in by_figure

    Path("out.json").unlink()
    assert main(["compare", "x=a.score", "y=b.score", "--figures", "FRR@FAR 0.2", "EER", *options]) == 0
    lines = lines_of(capsys.readouterr().out)
    found = json.loads(Path("out.json").read_text())
    assert [each["figure"] for each in found] == ["FRR@FAR 2e-1", "EER"]
    assert lines["FRR@FAR 2e-1: y less x"][0] == f"{100 * found[0]['difference']:+.2f}"
    assert "threshold@EER" not in lines


@pytest.mark.usefixtures("two_more", "recipe")
def test_a_new_figure_is_in_the_reports_of_a_run():
    folder = Path("exp/tiny/qmargin_a1.5")
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(folder)]
    assert main(["evaluate", *exp_dir, "--num_resamples", "60", "--baseline", "ltas=exp/tiny/ltas"]) == 0
    system = json.loads((folder / "metrics.json").read_text())["trial_lists"]["near"]["systems"]["trained"]
    assert set(system["frr_at_far"]) == set(system["tar_at_far"])
    markdown = (folder / "report.md").read_text()
    assert "| FRR % at FAR 1e-1 " in markdown
    assert "| FRR@FAR 1e-1: ltas less qmargin_a1.5 (trained) " in markdown
    assert " & FRR % at FAR 1e-1" in (folder / "report.tex").read_text()
    assert main(["report", *exp_dir]) == 0
    page = (folder / "report.html").read_text()
    for cell in ("FRR@FAR 1e-1", "threshold@EER", "FRR@FAR 1e-1: ltas less trained"):
        assert f">{cell}</" in page


@pytest.mark.usefixtures("files")
def test_where_systems_are_compared_in_which_figures():
    """Thresholds and calibration nowhere; the hull's EER only where somebody asks for it."""
    options = ["--num_resamples", "20", "--json"]
    assert main(["metrics", "a.score", "b.score", "--llr", "true", *options, "metrics.json"]) == 0
    stored = [each["figure"] for each in json.loads(Path("metrics.json").read_text())["comparisons"]]
    measurable = [figure for figure in wanted_figures(is_llr=True) if figure.is_measurable(3000)]
    assert sorted(stored) == sorted(each.name for each in measurable if each.kind.compared >= Compared.STORED)
    assert {"EER", "TAR@FAR 1e-3", "FAR@TAR 0.9", "minDCF 0.01", "minCllr"} <= set(stored)
    assert not {"EER hull", "Cllr", "actDCF 0.01", "threshold@FAR 1e-1", "TAR@FAR 1e-4"} & set(stored)
    assert main(["compare", "x=a.score", "y=b.score", *options, "compare.json"]) == 0
    asked = {each["figure"] for each in json.loads(Path("compare.json").read_text())}
    assert asked - set(stored) == {each.name for each in measurable if each.kind.compared == Compared.ON_REQUEST}
    assert "EER hull" in asked > set(stored)


@given(st.floats(1e-300, 1))
def test_a_name_stands_for_one_figure(rate):
    figure = Figure(TAR_AT_FAR, rate)
    assert figure_named(figure.name) == figure_named(f"TAR@FAR {rate!r}") == figure


@pytest.mark.parametrize("text", ["", "EER 0.1", "EER hull 0.1", "TAR@FAR", "TAR@FAR x", "minDCF", "hull", "eer"])
def test_other_names_are_none(text):
    assert figure_named(text) is None


def test_a_figure_has_a_rate_where_it_is_read_at_one():
    with pytest.raises(ValueError, match="TAR@FAR: found rate None, expected far"):
        Figure(TAR_AT_FAR)
    with pytest.raises(ValueError, match=r"EER: found rate 0\.1, expected none"):
        Figure(EER, 0.1)


def test_names_and_titles():
    wanted = wanted_figures(fars=(1e-3,), tars=(0.9,), p_targets=(0.01,), is_llr=True)
    titles = {figure.name: figure.title for figure in in_table_order(wanted)}
    assert len(titles) == sum(figure.kind.title is not None for figure in wanted)
    assert (
        titles.items()
        >= {
            "EER": "EER %",
            "EER hull": "EER % on the convex hull",
            "TAR@FAR 1e-3": "TAR % at FAR 1e-3",
            "FAR@TAR 0.9": "FAR % at TAR 0.9",
            "minDCF 0.01": "minDCF 0.01",
            "minCllr": "minCllr",
            "Cllr": "Cllr",
            "actDCF 0.01": "actDCF 0.01",
        }.items()
    )
    assert "threshold@FAR 1e-3" not in titles
    assert not {"Cllr", "actDCF 0.01"} & {figure.name for figure in wanted_figures(p_targets=(0.01,))}


def test_each_rate_is_wanted_once():
    wanted = wanted_figures(fars=(1e-3, 0.001, np.float64(0.015), 0.012), tars=(), p_targets=(0.01, 1e-2))
    assert [figure.rate for figure in wanted if figure.kind is TAR_AT_FAR] == [1e-3, 0.015, 0.012]
    assert len({figure.name for figure in wanted}) == len(set(wanted)) == len(wanted)
    num_rates = {"far": 3, "tar": 0, "p_target": 1, None: 1}
    for kind in figures.KINDS:
        count = sum(figure.kind is kind for figure in wanted)
        assert count == (0 if kind.needs_llr else num_rates[kind.rate_of]), kind


def test_figures_are_read_back_from_json(simulate):
    _, is_target, scores = simulate()
    result = system_result(scores, is_target, wanted_figures(fars=(0.1, 1e-7), is_llr=True))
    values = values_from_json(json.loads(json.dumps(readings_to_json(result.readings))))
    expected = {figure: result.value(figure) for figure in result.readings if figure.kind is not THRESHOLD_AT_FAR}
    assert values == expected
    assert values[Figure(TAR_AT_FAR, 1e-7)] is None
    assert values[Figure(EER)] != values[Figure(EER_HULL)]


def test_only_figures_that_take_a_list_of_some_length_can_lack_it():
    for figure in wanted_figures(fars=(1e-3,), is_llr=True):
        needs_many = figure.kind.rate_of == "far"
        assert figure.is_measurable(999) is not needs_many, figure.name
        assert figure.is_measurable(1000), figure.name


def test_the_influence_of_a_threshold_is_that_of_its_false_accepts(simulate):
    _, is_target, scores = simulate()
    figure = Figure(THRESHOLD_AT_FAR, 0.1)
    system = SortedTrials.of(scores, is_target)
    influence = figure.influence(system.influence, system.curves)
    assert not influence[is_target].any()
    assert len(np.unique(influence[~is_target])) == 2
    assert figure.kind.rests_on == ("non_target",)
