"""Stage 7: what a calibration may do to the scores, and what is told of one that does more."""

import json
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.calibration_fit import CalibrationError
from wespeaker_qm.stages import calibrating
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.variants import present_variants
from wespeaker_qm.utils.checksums import remove_checked
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map, write_rows

RUN = Path("exp/tiny/qmargin_a1.5")
EVALUATE = ["evaluate", "--data", "data/tiny", "--num_resamples", "50", "--exp_dir", str(RUN)]
EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]

pytestmark = pytest.mark.usefixtures("recipe")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_calibration_that_cannot_be_leaves_no_older_one(monkeypatch):
    assert main(["normalise", *EXP_DIR]) == 0
    assert main(["calibrate", *EXP_DIR]) == 0
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("validation: valid", "validation: null"))
    assert main(["calibrate", *EXP_DIR]) == 0
    assert not list((RUN / "scores").glob("*.calibrated.*"))


def test_a_calibration_that_invents_is_told_beside_the_figures(calibrated):
    path = RUN / "scores" / "calibration.json"
    model, checks = load_calibration(path)
    assert set(checks) == {"near", "all"}
    assert not any(check.notes() for check in checks.values())
    assert main(EVALUATE) == 0
    assert "notes" not in metrics_of(RUN)
    assert "EER 17.50 %" not in (RUN / "report.md").read_text()
    save_calibration(path, model, checks | {"near": EerCheck(0.175, 0.0115, 0.01, 0.5)})
    assert main(EVALUATE) == 0
    (note,) = metrics_of(RUN)["notes"]
    assert note.startswith("List near: EER 17.50 % before calibration and 1.15 % after it")
    assert "calibrate --quality false" in note
    assert f"> **Mind:** {note}" in (RUN / "report.md").read_text()
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    assert "List near: EER 17.50 %" in (RUN / "report.html").read_text()


def test_trials_of_narrow_and_wide_recordings_are_told(calibrated, capsys):
    assert main(EVALUATE) == 0
    keys = sorted(read_map(DataFolder("data/tiny").set("eval").utt2spk))
    table = RunFolder(RUN).bandwidths("eval")
    write_rows(table, ((key, 7900) for key in keys))
    assert main(EVALUATE) == 0
    assert "notes" not in metrics_of(RUN)
    write_rows(table, ((key, 4000 if key.endswith("u0") else 7900) for key in keys))
    assert main(EVALUATE) == 0  # again: what the report says of its lists has changed
    metrics = metrics_of(RUN)
    (headline,), (other,) = metrics["notes"], metrics["list_notes"]["all"]
    assert (headline.partition(":")[0], other.partition(":")[0]) == ("List near", "List all")
    for note in (headline, other):
        assert "compare a recording of narrow bandwidth with one of wide (medians 4.0 and 7.9 kHz)" in note
        assert str(table) in note
    report = (RUN / "report.md").read_text()
    assert report.index(f"> **Mind:** {headline}") < report.index("## Headline list")
    folded = report[report.index("<details><summary>1 note on another list: all</summary>") :]
    assert other in folded.partition("</details>")[0]
    assert report.count(other) == 1
    output = capsys.readouterr()
    shown = output.out + output.err
    assert headline in shown
    assert other not in shown
    assert f"1 note on another list: all; see {RUN / 'report.md'}" in shown
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    page = (RUN / "report.html").read_text()
    summary = "<summary>1 note on another list: all</summary>"
    assert page.index(headline) < page.index(summary) < page.index(other) < page.index('id="figures"')


def test_recordings_cut_into_equal_pieces_are_told(calibrated, capsys, monkeypatch):
    """Each speaker of the trials has one duration, which no other has."""

    def durations(folder):
        return {key: 2 + 0.5 * int(key[1]) for key in read_map(folder.utt2spk)}

    monkeypatch.setattr(calibrating, "_durations", durations)
    monkeypatch.setitem(STAGE_VERSIONS, "calibrate", 7)
    assert main(["calibrate", *calibrated]) == 0
    shown = capsys.readouterr().err
    for name in ("valid", "near", "all"):
        assert f"list {name}: durations alone, without listening, have an EER of 0.00 %" in shown
    assert main(EVALUATE) == 0
    metrics = metrics_of(RUN)
    assert [note.partition(":")[0] for note in metrics["notes"]] == ["List near"]
    assert [note.partition(":")[0] for note in metrics["list_notes"]["all"]] == ["List all"]
    for result in metrics["trial_lists"].values():
        systems = result["systems"]
        assert systems["calibrated"]["eer"] == pytest.approx(systems["asnorm"]["eer"], abs=0.02)


def test_calibrated_scores_of_earlier_versions_are_left_out_and_made_anew(calibrated, capsys, monkeypatch):
    path = RUN / "scores" / "calibration.json"
    remove_checked(path)
    path.write_text(json.dumps({"features": ["score"], "mean": [0], "deviation": [1], "weight": [1], "bias": 0}))
    assert main(EVALUATE) == 0
    assert "calibrated scores are left out: " in capsys.readouterr().err
    assert list(metrics_of(RUN)["trial_lists"]["near"]["systems"]) == ["trained", "asnorm"]
    monkeypatch.setitem(STAGE_VERSIONS, "calibrate", 7)  # as a run of an earlier version: its marker has another
    assert main(["calibrate", *calibrated]) == 0
    assert "skipped" not in capsys.readouterr().out
    assert load_calibration(path)
    assert main(EVALUATE) == 0
    assert list(metrics_of(RUN)["trial_lists"]["near"]["systems"]) == ["trained", "asnorm", "calibrated"]


def test_calibration_by_the_score_alone_leaves_the_order_of_trials(calibrated):
    assert main(["calibrate", *calibrated, "--quality", "false"]) == 0
    before, after = (read_scores(RUN / "scores" / f"near.{name}.score").scores for name in ("asnorm", "calibrated"))
    np.testing.assert_array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
    assert load_calibration(RUN / "scores" / "calibration.json")[0].measures == []


def test_a_calibration_that_fails_leaves_no_scores_of_another(calibrated, capsys, monkeypatch):
    def fail(*_):
        raise CalibrationError("nothing to learn")

    monkeypatch.setattr(calibrating, "fit", fail)
    assert main(["calibrate", *calibrated, "--quality", "false"]) == 0
    assert "skipped, because nothing to learn" in capsys.readouterr().err
    assert present_variants(RunFolder(RUN), ["near", "all"]) == ["asnorm"]


def test_calibration_refuses_speakers_of_the_cohort(calibrated, capsys):
    path = Path("data/tiny/valid/utt2spk")
    path.write_text(path.read_text().replace(" v0\n", " t0\n"))
    assert main(["calibrate", *calibrated]) == 1
    assert "1 speaker is in the cohort (data/tiny/train) and in the calibration list" in capsys.readouterr().err


def test_a_corpus_without_calibration_list_says_so(capsys):
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("validation: valid", "validation: null"))
    assert main(["calibrate", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    assert "stage calibrate: skipped, because the corpus has no list to calibrate on" in capsys.readouterr().err
