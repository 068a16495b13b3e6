"""Thresholds for wanted rates, and the rates as they were asked for."""

import json
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate.operating_points import roc_steps, tar_at_far
from wespeaker_qm.trials.score_files import read_scores

pytestmark = pytest.mark.usefixtures("recipe")


def test_threshold_for_a_wanted_rate(foreign, capsys):
    assert main(["threshold", *foreign, "--far", "0.2", "1e-3", "--num_resamples", "50"]) == 0
    shown = capsys.readouterr().out
    assert "| 2e-1        | 0.400000 (" in shown
    assert "1 of 5" in shown
    assert "takes 1,000 non-target trials" in shown


@pytest.mark.parametrize("program", [["metrics"], ["threshold", "--far", "0.2"]])
def test_folders_that_are_no_speakers_cost_only_the_intervals(below_one_folder, program, capsys):
    """Nobody gave an utt2spk that labels could disagree with."""
    name, *options = program
    assert main([name, below_one_folder, *options, "--num_resamples", "50"]) == 0
    shown = capsys.readouterr()
    assert "8 target and 8 non-target trials of 16 utterances." in shown.out
    assert "No intervals: it is not known who speaks." in shown.out
    assert "not the speakers: 8 labels say otherwise" in shown.err
    assert main([name, below_one_folder, *options, "--num_resamples", "0"]) == 0
    shown = capsys.readouterr()
    assert "No intervals: none were asked for" in shown.out
    assert "speakers" not in shown.err
    assert main([name, below_one_folder, *options, "--num_resamples", "50", "--utt2spk", "utt2spk"]) == 0
    assert "trials of 16 utterances by 8 speakers" in capsys.readouterr().out


@pytest.fixture
def ladder():
    """Scores of 8 targets and 99 non-targets, of which each wanted rate accepts another number."""
    targets = [f"s{n}/a s{n}/b {0.05 + 0.1 * n + 0.004:.4f} target\n" for n in range(2, 10)]
    nontargets = [f"s{n % 8 + 2}/a s{(n + 1) % 8 + 2}/{n} {0.01 * n:.4f} nontarget\n" for n in range(99)]
    Path("ladder.score").write_text("".join(targets + nontargets))
    return "ladder.score"


def table_of(shown, heading):
    """The lines of the Markdown table whose first column is ``heading``, split into cells."""
    lines = shown[shown.index(f"| {heading}") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_rates_that_round_to_one_name_keep_their_own_lines(ladder, capsys):
    rates = ["0.034", "0.0299", "0.25", "0.2", "0.250", "0.0010101", "1e-3", "0.10101010101010101"]
    assert main(["threshold", ladder, "--far", *rates, "--num_resamples", "40"]) == 0
    rows = table_of(capsys.readouterr().out, "FAR at most")
    names = ["3.4e-2", "2.99e-2", "2.5e-1", "2e-1", "1.0101e-3", "1e-3", "1.0101010101010101e-1"]
    assert [row[0] for row in rows] == names
    accepts = [row[4] for row in rows]
    assert accepts[:4] == ["3 of 99", "0 of 99", "23 of 99", "13 of 99"]
    assert accepts[4:6] == ["takes 991 non-target trials", "takes 1,000 non-target trials"]
    for name, row in zip(names, rows, strict=True):
        assert not row[2] or float(row[2]) <= 100 * float(name) + 5e-5

    priors = ["0.0123456789", "0.0123456", "1e-2", "0.01"]
    options = ["--far", *rates, "--tar", "0.9", "0.9000001", "--p_target", *priors, "--llr", "true"]
    assert main(["metrics", ladder, *options, "--num_resamples", "40", "--json", "m.json"]) == 0
    system = json.loads(Path("m.json").read_text())["systems"][ladder]
    assert list(system["tar_at_far"]) == names
    assert list(system["min_dcf"]) == list(system["act_dcf"]) == ["0.0123456789", "0.0123456", "0.01"]
    assert list(system["far_at_tar"]) == ["0.9", "0.9000001"]
    scored = read_scores(ladder)
    roc = roc_steps(scored.scores, scored.trials.is_target)
    for name in names:
        point = system["tar_at_far"][name]
        expected = tar_at_far(roc, float(name))
        assert (point and point["false_accepts"]) == (expected and expected.false_accepts)
        assert (f"TAR@FAR {name}" in system["intervals"]) == (point is not None)


def test_a_threshold_that_is_shown_accepts_the_trials_that_were_counted(capsys):
    lines = [f"a{n} b{n} 0.{n}00000{n}1 {kind}\n" for n, kind in enumerate(["nontarget"] * 5 + ["target"] * 5)]
    Path("fine.score").write_text("".join(lines))
    assert main(["threshold", "fine.score", "--far", "0.4", "--num_resamples", "0"]) == 0
    assert table_of(capsys.readouterr().out, "FAR at most")[0][1] == "0.50000051"
