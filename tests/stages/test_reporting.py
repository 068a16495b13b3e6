"""report.html, of the figures and the files that lie there."""

import shutil
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import main

RUN = Path("exp/tiny/qmargin_a1.5")
SCORE = ["score", "--data", "data/tiny", "--exp_dir", str(RUN)]
EVALUATE = ["evaluate", "--data", "data/tiny", "--num_resamples", "50", "--exp_dir", str(RUN)]
EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]

pytestmark = pytest.mark.usefixtures("recipe")


def test_a_report_of_other_tables_is_made_again(capsys, replaced):
    report = ["report", *EXP_DIR]
    for _ in range(2):
        assert main(report) == 0
    assert "stage report: nothing changed" in capsys.readouterr().out
    assert main(["normalise", *EXP_DIR]) == 0
    assert main(report) == 0  # of other scores, which the figures do not tell of
    scores = RUN / "scores" / "near.score"
    content = scores.read_bytes()
    replaced(scores, content.replace(b" 0.1", b" 0.2"))
    assert main(report) == 1
    assert "its figures are of other files than lie there (scores/near.score: changed)" in capsys.readouterr().err
    replaced(scores, content)
    assert main(report) == 0
    path = Path("data/tiny/eval/utt2dur")
    replaced(path, path.read_bytes().replace(b"0.5", b"0.6"))
    assert main(report) == 0
    assert "stage report: done again, because data/eval/utt2dur: changed" in capsys.readouterr().out


def test_a_report_of_other_trials_is_refused(capsys):
    report = ["report", *EXP_DIR]
    assert main(report) == 0
    path = Path("data/tiny/trials/all")  # not the headline list
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert main(report) == 1
    assert (
        "stage score must run again before anything is made of it (data/trials/all: changed" in capsys.readouterr().err
    )
    shutil.rmtree(RUN / "embeddings")  # scores of another origin, of which there is no record
    (RUN / ".done" / "score").unlink()
    assert main(report) == 1
    assert "its figures are of other files than lie there (data/trials/all: changed)" in capsys.readouterr().err


def test_a_report_without_the_scores_of_its_figures_names_the_evaluation(capsys):
    assert main(["normalise", *EXP_DIR]) == 0
    assert main(EVALUATE) == 0
    assert main(["report", *EXP_DIR]) == 0
    normalised = RUN / "scores" / "near.asnorm.score"
    content = {path: path.read_bytes() for path in (RUN / "scores").glob("near.asnorm.*")}
    for path in content:
        path.unlink()
    assert main(["report", *EXP_DIR]) == 1
    message = f"{normalised}: no such file, expected the scores that {RUN}/metrics.json has figures of (asnorm)"
    assert f"{message}; evaluate the run again (run.sh --stage 5" in capsys.readouterr().err
    for path, before in content.items():
        path.write_bytes(before)
    assert main(["report", *EXP_DIR]) == 0
    assert main([*SCORE, "--subtract_mean", "false"]) == 0  # which discards what was made of the older scores
    assert not normalised.exists()
    assert main(["report", *EXP_DIR]) == 1
    assert f"{message}; evaluate the run again (run.sh --stage 5" in capsys.readouterr().err
    assert main(EVALUATE) == 0
    assert main(["report", *EXP_DIR]) == 0
