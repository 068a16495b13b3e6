"""The evaluation at the end of stages 5 to 7: figures of every system, and the report of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.report.tables import markdown_text
from wespeaker_qm.trials.score_files import read_scores

RUN = Path("exp/tiny/qmargin_a1.5")
SCORE = ["score", "--data", "data/tiny", "--exp_dir", str(RUN)]
EVALUATE = ["evaluate", "--data", "data/tiny", "--num_resamples", "50", "--exp_dir", str(RUN)]
LTAS = ["--baseline", "ltas=exp/tiny/ltas"]
EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]

pytestmark = pytest.mark.usefixtures("recipe")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def systems():
    return list(metrics_of(RUN)["trial_lists"]["near"]["systems"])


def test_metrics_hold_every_list_and_system():
    metrics = metrics_of(RUN)
    assert metrics["run"] == "qmargin_a1.5"
    assert metrics["corpus"]["caveat"] == "No voices at all."
    assert list(metrics["trial_lists"]) == ["near", "all"]
    assert "commit" in metrics["provenance"]
    assert metrics["training"] == {
        "loss": {"name": "Q-Margin", "alpha": 1.5, "scale": 10.0, "margin": 0.1},
        "num_epochs": 4,
        "num_samples": 1280,
        "minutes": 10.0,
    }
    for name, result in metrics["trial_lists"].items():
        trials, scores, _ = read_scores(RUN / "scores" / f"{name}.score")
        assert list(result["systems"]) == ["trained", "ltas"]
        assert result["num_targets"] + result["num_nontargets"] == len(trials)
        assert result["num_speakers"] == 6
        system = result["systems"]["trained"]
        assert system["eer"] == equal_error_rate(roc_steps(scores, trials.is_target)).rate
        assert system["eer"] < result["systems"]["ltas"]["eer"]
        point = system["tar_at_far"]["1e-2"]
        assert point["false_accepts"] == np.sum((scores >= point["threshold"]) & ~trials.is_target)
        assert system["tar_at_far"]["1e-4"] is None


def test_report_says_what_it_is_before_any_figure():
    text = (RUN / "report.md").read_text()
    assert text.startswith("# qmargin_a1.5 on tiny\n")
    assert text.index("No voices at all.") < text.index("| figure")
    assert text.index("## Headline list: near") < text.index("### all")
    assert "Q-Margin (α 1.5, s 10, m 0.1), 1,280 training samples in 4 epochs and 10.0 minutes" in text
    assert re.search(r"\| +qmargin_a1\.5 \(trained\) \|", text)
    assert "ltas |" in text
    assert "Not measurable with so few non-target trials: TAR % at FAR 1e-" in text
    assert "95 % intervals for other speakers of this kind, from 50 resamples" in text
    sentences = metrics_of(RUN)["summary"]
    assert text.index(f"- {markdown_text(sentences[0])}\n- ") < text.index("No voices at all.")
    assert sentences[0].startswith("On list near, qmargin_a1.5 judges ")
    assert "<details><summary>All pairs, with p-values" in text
    for name in ("det.png", "training.png"):
        assert f"]({name})" in text
        assert (RUN / name).read_bytes().startswith(b"\x89PNG")
    assert (RUN / "det.pdf").is_file()


def test_evaluate_skips_and_notices_changes(capsys):
    for _ in range(2):
        assert main([*EVALUATE, *LTAS]) == 0
    assert "stage evaluate: nothing changed since the last run, skipped" in capsys.readouterr().out
    assert main(EVALUATE) == 0
    shown = capsys.readouterr().out
    assert "report:" in shown
    told = " ".join(shown[: shown.index("tiny, list near (per cent):")].split())
    assert " - ".join(metrics_of(RUN)["summary"]) in told
    assert "- It was compared with no baseline." in told
    assert list(metrics_of(RUN)["trial_lists"]["all"]["systems"]) == ["trained"]


def test_evaluate_needs_no_training():
    folder = Path("exp/tiny/ltas")
    assert main([*EVALUATE[:-1], str(folder)]) == 0
    assert metrics_of(folder)["training"] is None
    assert not (folder / "training.png").exists()
    assert "## Training" not in (folder / "report.md").read_text()


@pytest.mark.parametrize("baseline", ["ltas", "=x", "ltas=", "trained=x"])
def test_evaluate_refuses_a_baseline_without_name_or_folder(capsys, baseline):
    with pytest.raises(SystemExit) as error:
        main([*EVALUATE, "--baseline", baseline])
    assert error.value.code == 1
    assert "expected NAME=DIR" in capsys.readouterr().err


def test_evaluate_refuses_one_name_for_two_baselines(capsys):
    assert main([*EVALUATE, *LTAS, "--baseline", "ltas=elsewhere"]) == 1
    assert "the name ltas stands twice" in capsys.readouterr().err


def test_a_baseline_cannot_take_the_name_of_the_run_in_the_report(capsys):
    assert main([*EVALUATE, "--baseline", "qmargin_a1.5 (trained)=exp/tiny/ltas"]) == 1
    assert "qmargin_a1.5 (trained) is what the run itself is called" in capsys.readouterr().err


def test_baselines_are_held_to_the_same(capsys):
    mean = Path("exp/tiny/ltas/embeddings/mean_vec.npy")
    np.save(mean, np.full(16, 0.2, np.float32))
    assert main([*EVALUATE, *LTAS]) == 1
    assert "exp/tiny/ltas: stage score must run again" in capsys.readouterr().err


def test_stages_6_and_7_make_systems_that_the_report_shows(capsys):
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    for _ in range(2):
        assert main(["normalise", *exp_dir, "--top_n", "5"]) == 0
        assert main(["calibrate", *exp_dir, "--top_n", "5"]) == 0
        assert main([*EVALUATE, *LTAS]) == 0
    assert capsys.readouterr().out.count("skipped") == 3
    systems = metrics_of(RUN)["trial_lists"]["near"]["systems"]
    assert list(systems) == ["trained", "asnorm", "calibrated", "ltas"]
    assert systems["calibrated"]["cllr"] < 1
    assert "cllr" not in systems["asnorm"]
    assert (RUN / "embeddings" / "train" / "spk_xvector.scp").is_file()
    assert (RUN / "scores" / "calibration.json").is_file()
    text = (RUN / "report.md").read_text()
    assert "| Cllr" in text
    assert "EER: asnorm less qmargin_a1.5 (trained)" in text
    latex = (RUN / "report.tex").read_text()
    assert latex.count(r"\\") == 8
    assert r"qmargin\_a1.5 (trained) & " in latex
    # New cosines: what was made of the old ones must not be shown beside them.
    assert main([*SCORE, "--subtract_mean", "false"]) == 0
    assert main(EVALUATE) == 0
    assert list(metrics_of(RUN)["trial_lists"]["near"]["systems"]) == ["trained"]


def test_a_list_beside_the_headline_that_supports_no_interval_says_why_where_it_is_shown():
    path = Path("data/tiny/trials/all")
    lines = path.read_text().splitlines(keepends=True)
    two = {line.split("-")[0] for line in lines if line.endswith(" target\n")}
    two = sorted(two)[:2]
    path.write_text("".join(line for line in lines if " nontarget" in line or line.split("-")[0] in two))
    assert main(SCORE) == 0
    assert main(EVALUATE) == 0
    assert main(["report", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    reason = metrics_of(RUN)["trial_lists"]["all"]["no_intervals"]
    assert reason.startswith("target trials are of 2.0 speakers")
    for name in ("report.md", "report.html"):
        assert f"No intervals: {reason}." in (RUN / name).read_text()


def test_scores_of_older_options_are_not_evaluated(capsys):
    assert main(["normalise", *EXP_DIR, "--top_n", "5"]) == 0
    assert main(["calibrate", *EXP_DIR, "--top_n", "5"]) == 0
    calibrated = RUN / "scores" / "near.calibrated.score"
    assert calibrated.is_file()
    assert main(["normalise", *EXP_DIR, "--top_n", "3"]) == 0
    assert "stage normalise: done again, because top_n: was 5, now 3" in capsys.readouterr().out
    assert not calibrated.exists()
    assert main(EVALUATE) == 0
    assert systems() == ["trained", "asnorm"]
    assert main(["calibrate", *EXP_DIR, "--top_n", "5"]) == 1
    assert "it took --top_n 3, found --top_n 5 (run.sh --stage 6)" in capsys.readouterr().err
    assert main(["calibrate", *EXP_DIR]) == 0  # with what stage 6 took
    assert main(EVALUATE) == 0
    assert systems() == ["trained", "asnorm", "calibrated"]
    # The other method: what was calibrated is not of its scores, whether they are made now or were there.
    for _ in range(2):
        assert main(["normalise", *EXP_DIR, "--method", "snorm"]) == 0
        assert not calibrated.exists()
        assert main(["calibrate", *EXP_DIR]) == 0
    assert main(EVALUATE) == 0
    assert systems() == ["trained", "snorm", "asnorm", "calibrated"]


def test_scores_without_a_record_or_of_other_scores_are_left_out_with_a_note(capsys, replaced):
    assert main(["normalise", *EXP_DIR, "--top_n", "5"]) == 0
    assert main(["calibrate", *EXP_DIR]) == 0
    normalised = RUN / "scores" / "near.asnorm.score"
    replaced(normalised, normalised.read_bytes().replace(b" 0.1", b" 0.2"))
    assert main(EVALUATE) == 0
    assert "the calibrated scores are left out: scores/near.asnorm.score: changed" in capsys.readouterr().err
    assert systems() == ["trained", "asnorm"]
    (RUN / ".done" / "asnorm").unlink()
    assert main(EVALUATE) == 0
    assert "the asnorm scores are left out: no record of what they were made from" in capsys.readouterr().err
    assert systems() == ["trained"]
    assert normalised.is_file()  # it may be somebody's
