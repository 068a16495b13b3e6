"""The figures of score files of any origin."""

import json
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main

RUN = Path("exp/tiny/qmargin_a1.5")

pytestmark = pytest.mark.usefixtures("recipe")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_of_scores_of_any_origin(foreign, capsys):
    assert main(["metrics", "kaldi.score"]) == 1
    assert "kaldi.score: the file has no labels" in capsys.readouterr().err
    options = ["--num_resamples", "50", "--far", "0.2", "--p_target", "0.5", "--llr", "true", "--json", "m.json"]
    assert main(["metrics", *foreign, *options, "--det", "out/det"]) == 0
    shown = capsys.readouterr().out
    assert "5 target and 5 non-target trials of 10 utterances by 5 speakers" in shown
    assert "TAR % at FAR 2e-1" in shown
    assert "Cllr" in shown
    system = json.loads(Path("m.json").read_text())["systems"]["kaldi.score"]
    assert system["tar_at_far"]["2e-1"] == {"threshold": 0.4, "far": 0.2, "tar": 1.0, "false_accepts": 1}
    assert system["eer"] == pytest.approx(0.2)
    assert Path("out/det.png").is_file()
    assert main(["metrics", *foreign, "--num_resamples", "50", "--by", "trial"]) == 0
    shown = capsys.readouterr().out
    assert "50 resamples of the trials" in shown
    assert "They are too narrow" in shown
    assert main(["metrics", "kaldi.score", *foreign]) == 1
    assert "a score file stands twice" in capsys.readouterr().err


def test_metrics_equal_the_figures_of_the_recipe(capsys):
    scores, utt2spk = str(RUN / "scores" / "near.score"), "data/tiny/eval/utt2spk"
    assert main(["metrics", scores, "--utt2spk", utt2spk, "--num_resamples", "50", "--json", "m.json"]) == 0
    found = json.loads(Path("m.json").read_text())["systems"][scores]
    expected = metrics_of(RUN)["trial_lists"]["near"]["systems"]["trained"]
    assert found["eer"] == expected["eer"]
    assert found["intervals"] == expected["intervals"]
    assert main(["metrics", scores, "--num_resamples", "50"]) == 0
    assert "No intervals: it is not known who speaks." in capsys.readouterr().out
    assert main(["metrics", scores, "--num_resamples", "0"]) == 0
    with pytest.raises(SystemExit):
        main(["metrics", scores, "--far", "2"])
