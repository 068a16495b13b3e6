"""All figures of one trial list, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.evaluate.metrics import evaluate_list
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
        ("a1 a2 0.9 target\na1 b1 0.1 nontarget\n", "1 of the 3 trials of .* has no score.*\n  a2 b1"),
        ("a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 c1 0.2 nontarget\n", "1 of the 3 .* has no score.*\n  a2 b1"),
        (
            "a1 a2 1 target\na1 b1 0 nontarget\na2 b1 0 nontarget\na2 c1 0 nontarget\n",
            "1 trial is not in .*\n  a2 c1",
        ),
        (
            "a1 a2 0.9 target\na1 b1 0.1 nontarget\na2 b1 0.2 target\n",
            "1 trial has another label than in .*\n  a2 b1",
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
    with pytest.raises(RecipeError, match=r"1 utterance is not in utt2spk.*\n  b1"):
        evaluate_list(read_trial_table(files / "trials"), {}, {"a1": "a", "a2": "a"})


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
