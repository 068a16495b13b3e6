"""score, evaluate and table5 as run.sh calls them, on a simulated corpus."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps, tar_at_far
from wespeaker_qm.report.table5_rows import read_table
from wespeaker_qm.report.tables import markdown_text
from wespeaker_qm.score.calibration_check import EerCheck
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.calibration_fit import CalibrationError
from wespeaker_qm.stages import calibrating
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.variants import present_variants
from wespeaker_qm.utils.checksums import checksum_path, remove_checked, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map, write_rows
from wespeaker_qm.utils.yaml_files import read_yaml_mapping

RUN = Path("exp/tiny/qmargin_a1.5")
SCORE = ["score", "--data", "data/tiny", "--exp_dir", str(RUN)]
EVALUATE = ["evaluate", "--data", "data/tiny", "--num_resamples", "50", "--exp_dir", str(RUN)]
LTAS = ["--baseline", "ltas=exp/tiny/ltas"]
TABLE5 = ["table5", "--data", "data/tiny", "--exp_root", "exp/tiny", "--num_resamples", "50"]

pytestmark = pytest.mark.usefixtures("recipe")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_score_writes_every_list_and_skips_what_is_done(capsys):
    trials, scores, _ = read_scores(RUN / "scores" / "near.score")
    assert len(trials) == len(Path("data/tiny/trials/near").read_text().splitlines())
    assert scores[trials.is_target].mean() > scores[~trials.is_target].mean()
    assert (RUN / "scores" / "all.score").is_file()
    for _ in range(2):  # the copy is newer than what was scored
        assert main(SCORE) == 0
    assert "nothing changed since the last run, skipped" in capsys.readouterr().out
    assert np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)
    assert main([*SCORE, "--subtract_mean", "false"]) == 0
    assert not np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)


def test_score_refuses_unknown_lists_and_missing_embeddings(capsys):
    assert main([*SCORE, "--trials", "other"]) == 1
    assert "--trials: unknown other; data/tiny has near, all" in capsys.readouterr().err
    scp = RUN / "embeddings" / "eval" / "xvector.scp"
    scp.write_text("".join(scp.read_text().splitlines(keepends=True)[3:]))
    checksum_path(scp).unlink()
    assert main(SCORE) == 1
    assert "3 of the 48 utterances have no embedding" in capsys.readouterr().err
    assert not (RUN / ".done" / "score").exists()


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


def test_table5_stands_beside_the_paper():
    assert main(TABLE5) == 0
    text = Path("exp/tiny/table5.md").read_text()
    assert text.startswith("# The losses of Table 5 on tiny\n")
    assert text.index("No voices at all.") < text.index("| loss")
    table = text[text.index("| loss") :].split("\n\n")[0]
    header, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    header = [cell.strip() for cell in header]
    assert header[:4] == ["loss", "tiny: EER", "tiny: TAR@1e-1", "tiny: TAR@1e-2"]
    assert header[-2:] == ["paper, VoxCeleb1-H: TAR@1e-3", "paper, VoxCeleb1-H: TAR@1e-4"]
    assert "not measurable" not in table
    assert "\n\nNot measurable with so few non-target trials: TAR@1e-" in text
    paper = [[float(cell) for cell in line[-2:]] for line in lines]
    assert paper == [
        [86.62, 72.08],
        [86.68, 70.61],
        [84.71, 74.37],
        [87.69, 74.08],
        [87.02, 74.60],
        [87.91, 72.96],
    ]
    for line, row in zip(lines, read_table("conf/table5.yaml").rows, strict=True):
        system = metrics_of(Path("exp/tiny") / row.run)["trial_lists"]["near"]["systems"]["trained"]
        assert line[1].strip().startswith(f"{100 * system['eer']:.2f} (")
    assert lines[0][0].strip() == "ArcFace (s 32, m 0.2) †"
    assert "† **trained here as ArcFace (s 16, m 0.2)**" in text
    assert text.count("**trained here as") == 1
    for suffix in ("png", "pdf"):
        assert Path(f"exp/tiny/det_table5.{suffix}").is_file()
    content = json.loads(Path("exp/tiny/table5.json").read_text())
    assert list(content["tables"]) == ["near"], "all is of other trials"
    found, rows, _ = content["tables"]["near"]
    assert found == header
    assert [row[0] for row in rows] == [line[0].strip() for line in lines]
    assert {each["figure"] for each in content["comparisons"]} >= {"EER", "TAR@FAR 1e-1"}
    assert "How these networks differ on other speakers" in text
    assert Path("exp/tiny/table5.tex").read_text().count(r"\\") == 6


def test_table5_names_missing_rows_and_how_to_make_them(capsys):
    Path("exp/tiny/cosface/metrics.json").unlink()
    assert main(TABLE5) == 1
    message = capsys.readouterr().err
    assert "1 of 6 runs of Table 5 have no metrics.json" in message
    assert "./run.sh --loss conf/loss/cosface.yaml --exp_dir exp/tiny/cosface" in message
    assert main([*TABLE5, "--partial", "true"]) == 0
    lines = Path("exp/tiny/table5.md").read_text().splitlines()
    assert [line.count("not trained") for line in lines if line.startswith("| CosFace")] == [3]
    for path in Path("exp/tiny").glob("*/metrics.json"):
        path.unlink()
    assert main([*TABLE5, "--partial", "true"]) == 1


def test_table5_refuses_scores_that_are_not_those_of_the_metrics(capsys):
    path = Path("exp/tiny/entmax_a2.0/scores/near.score")
    write_checked_text(path, Path("exp/tiny/ltas/scores/near.score").read_text())
    assert main(TABLE5) == 1
    assert "entmax_a2.0/metrics.json: EER" in capsys.readouterr().err


def test_table5_refuses_another_order_of_trials(capsys):
    path = Path("exp/tiny/entmax_a1.75/scores/near.score")
    write_checked_text(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
    assert main(TABLE5) == 1
    assert "entmax_a1.75/scores/near.score: not the trials of" in capsys.readouterr().err


def test_table5_refuses_another_corpus(capsys):
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("name: tiny", "name: other"))
    assert main(TABLE5) == 1
    assert "figures of tiny/near, expected other/near" in capsys.readouterr().err


def test_table5_lists_its_losses_for_the_shell(capsys):
    assert main(["table5", "--list_losses", "true"]) == 0
    losses = capsys.readouterr().out.split()
    assert len(losses) == 6
    for loss, row in zip(losses, read_table("conf/table5.yaml").rows, strict=True):
        overlay = read_yaml_mapping(loss)
        assert overlay["projection_args"]["scale"] == row.card.scale
        assert overlay["projection_args"].get("alpha") == row.card.alpha
        assert overlay["margin_update"]["final_margin"] == row.card.margin


def test_table5_refuses_a_file_without_a_key_and_a_call_without_folders(capsys):
    Path("table.yaml").write_text("paper: x\nrows: [{name: ArcFace}]\n")
    assert main(["table5", "--list_losses", "true", "--table", "table.yaml"]) == 1
    assert "table.yaml: KeyError('alpha')" in capsys.readouterr().err
    assert main(["table5"]) == 1
    assert "--data and --exp_root are needed" in capsys.readouterr().err


def test_scores_without_text_are_read_all_the_same():
    before = read_scores(RUN / "scores" / "near.score")
    assert main([*SCORE, "--text", "false"]) == 0
    assert not (RUN / "scores" / "near.score").exists()
    after = read_scores(RUN / "scores" / "near.score")
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-8)
    assert main([*EVALUATE]) == 0


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


def systems():
    return list(metrics_of(RUN)["trial_lists"]["near"]["systems"])


def replaced(path, content):
    """Another content of the same size, with the old times: what rsync and cp -p can do."""
    status = path.stat()
    assert len(content) == status.st_size
    assert content != path.read_bytes()
    path.write_bytes(content)
    checksum_path(path).unlink(missing_ok=True)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


EXP_DIR = ["--data", "data/tiny", "--exp_dir", str(RUN)]


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


def test_scores_without_a_record_or_of_other_scores_are_left_out_with_a_note(capsys):
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


def test_scores_that_somebody_put_there_are_not_removed():
    assert main(["normalise", *EXP_DIR]) == 0
    foreign = RUN / "scores" / "near.asnorm.score"
    foreign.write_text("mine\n")
    checksum_path(foreign).unlink()
    assert main([*SCORE, "--subtract_mean", "false"]) == 0
    assert foreign.read_text() == "mine\n"
    assert not (RUN / "scores" / "all.asnorm.score").exists()


def test_calibration_that_cannot_be_leaves_no_older_one(monkeypatch):
    assert main(["normalise", *EXP_DIR]) == 0
    assert main(["calibrate", *EXP_DIR]) == 0
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("validation: valid", "validation: null"))
    assert main(["calibrate", *EXP_DIR]) == 0
    assert not list((RUN / "scores").glob("*.calibrated.*"))


def test_cosines_of_other_embeddings_or_trials_are_refused(capsys):
    ark = RUN / "embeddings" / "eval" / "xvector.ark"
    before = ark.read_bytes()
    replaced(ark, before[:-4] + np.float32(3).tobytes())
    checksum_path(ark.with_suffix(".scp")).unlink()
    assert main(EVALUATE) == 1
    assert (
        "stage score must run again before anything is made of it (embeddings/eval: changed)" in capsys.readouterr().err
    )
    scores = read_scores(RUN / "scores" / "near.score").scores
    assert main(SCORE) == 0
    assert "stage score: done again, because embeddings/eval: changed" in capsys.readouterr().out
    assert not np.array_equal(read_scores(RUN / "scores" / "near.score").scores, scores)
    assert main(EVALUATE) == 0
    (RUN / ".done" / "score").unlink()  # as an interrupted run leaves it
    assert main(EVALUATE) == 1
    assert "no record of what they were made from: scoring was interrupted" in capsys.readouterr().err


def test_scoring_one_list_leaves_the_others_unknown(capsys):
    assert main([*SCORE, "--trials", "near"]) == 0
    assert main(EVALUATE) == 1
    assert "all: not scored with the others" in capsys.readouterr().err
    assert main(SCORE) == 0
    assert main(EVALUATE) == 0


@pytest.mark.parametrize("stage", ["normalise", "calibrate"])
def test_no_stage_alone_mixes_old_scores_with_new_embeddings(stage, capsys):
    assert main(["normalise", *EXP_DIR]) == 0
    mean = RUN / "embeddings" / "mean_vec.npy"
    np.save(mean, np.full(16, 0.2, np.float32))
    checksum_path(mean).unlink(missing_ok=True)
    assert main([stage, *EXP_DIR]) == 1
    assert "stage score must run again" in capsys.readouterr().err


def test_baselines_are_held_to_the_same(capsys):
    mean = Path("exp/tiny/ltas/embeddings/mean_vec.npy")
    np.save(mean, np.full(16, 0.2, np.float32))
    assert main([*EVALUATE, *LTAS]) == 1
    assert "exp/tiny/ltas: stage score must run again" in capsys.readouterr().err


def test_the_cohort_is_made_again_for_other_speakers(capsys):
    assert main(["normalise", *EXP_DIR]) == 0
    before = read_scores(RUN / "scores" / "near.asnorm.score").scores
    path = Path("data/tiny/train/utt2spk")
    replaced(path, path.read_bytes().replace(b"t0-u0 t0", b"t0-u0 t1"))
    assert main(["normalise", *EXP_DIR]) == 0
    assert "stage normalise: done again, because data/train/utt2spk: changed" in capsys.readouterr().out
    assert not np.array_equal(read_scores(RUN / "scores" / "near.asnorm.score").scores, before)


def test_a_text_of_the_same_size_and_time_is_not_read_from_the_cache_of_another():
    path = RUN / "scores" / "near.score"
    assert cache_path(path).is_file()
    before = read_scores(path).scores
    replaced(path, path.read_bytes().replace(b" 0.1", b" 0.2"))
    assert not np.array_equal(read_scores(path).scores, before)


def test_a_report_of_other_tables_is_made_again(capsys):
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


def test_table5_refuses_runs_of_other_embeddings(capsys):
    mean = Path("exp/tiny/cosface/embeddings/mean_vec.npy")
    np.save(mean, np.full(16, 0.2, np.float32))
    checksum_path(mean).unlink(missing_ok=True)
    assert main(TABLE5) == 1
    assert "exp/tiny/cosface: stage score must run again" in capsys.readouterr().err


def test_snorm_takes_the_whole_cohort_and_wrong_numbers_are_refused(capsys):
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(["normalise", *exp_dir, "--method", "snorm"]) == 0
    assert main(["normalise", *exp_dir, "--top_n", "100"]) == 0  # more than there are: all
    one, two = (read_scores(RUN / "scores" / f"near.{name}.score").scores for name in ("snorm", "asnorm"))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(SystemExit):
        main(["normalise", *exp_dir, "--top_n", "1"])
    assert "--top_n: found '1', expected a whole number of at least 2" in capsys.readouterr().err


def test_normalisation_and_calibration_refuse_speakers_of_the_trials(capsys):
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    for name, command in (("train", "normalise"), ("valid", "calibrate")):
        path = Path(f"data/tiny/{name}/utt2spk")
        text = path.read_text()
        path.write_text(text.replace(f"{name[0]}0\n", "s3\n"))
        assert main([command, *exp_dir]) == 1
        assert "1 speakers are in the c" in capsys.readouterr().err
        path.write_text(text)
        assert main(["normalise", *exp_dir]) == 0


@pytest.fixture
def calibrated():
    """Options of a run that is normalised and calibrated."""
    exp_dir = ["--data", "data/tiny", "--exp_dir", str(RUN)]
    assert main(["normalise", *exp_dir, "--top_n", "5"]) == 0
    assert main(["calibrate", *exp_dir, "--top_n", "5"]) == 0
    return [*exp_dir, "--top_n", "5"]


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


def test_other_speakers_of_the_cohort_are_normalised_anew(calibrated):
    before = read_scores(RUN / "scores" / "near.asnorm.score").scores
    path = Path("data/tiny/train/utt2spk")
    path.write_text(path.read_text().replace(" t0\n", " t1\n"))
    assert main(["normalise", *calibrated]) == 0
    assert not np.array_equal(read_scores(RUN / "scores" / "near.asnorm.score").scores, before)


def test_calibration_refuses_speakers_of_the_cohort(calibrated, capsys):
    path = Path("data/tiny/valid/utt2spk")
    path.write_text(path.read_text().replace(" v0\n", " t0\n"))
    assert main(["calibrate", *calibrated]) == 1
    assert "1 speakers are in the cohort (data/tiny/train) and in the calibration list" in capsys.readouterr().err


def test_a_corpus_without_calibration_list_says_so(capsys):
    info = Path("data/tiny/corpus.yaml")
    info.write_text(info.read_text().replace("validation: valid", "validation: null"))
    assert main(["calibrate", "--data", "data/tiny", "--exp_dir", str(RUN)]) == 0
    assert "stage calibrate: skipped, because the corpus has no list to calibrate on" in capsys.readouterr().err


FOREIGN = """\
id1/a/1.wav id1/b/1.wav 0.9
id2/a/1.wav id2/b/1.wav 0.8
id3/a/1.wav id3/b/1.wav 0.4
id4/a/1.wav id4/b/1.wav 0.7
id5/a/1.wav id5/b/1.wav 0.95
id1/a/1.wav id2/b/1.wav 0.1
id2/a/1.wav id3/b/1.wav 0.5
id3/a/1.wav id4/b/1.wav 0.2
id4/a/1.wav id5/b/1.wav 0.3
id5/a/1.wav id1/b/1.wav 0.15
"""


@pytest.fixture
def foreign():
    """Kaldi's scores without labels, and VoxCeleb's list of the same trials in another order."""
    Path("kaldi.score").write_text(FOREIGN)
    trials = [line.split()[:2] for line in FOREIGN.splitlines()][::-1]
    lines = [f"{int(one.split('/')[0] == two.split('/')[0])} {one} {two}\n" for one, two in trials]
    Path("veri_test.txt").write_text("".join(lines))
    return ["kaldi.score", "--trials", "veri_test.txt"]


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


@pytest.fixture
def below_one_folder():
    """Scores of 8 targets and 8 non-targets whose names all begin with one folder, which is no speaker."""
    targets = [f"wav/s{n}/1 wav/s{n}/2 {0.5 + 0.01 * n:.2f} target\n" for n in range(8)]
    nontargets = [f"wav/s{n}/1 wav/s{(n + 1) % 8}/1 {0.01 * n:.2f} nontarget\n" for n in range(8)]
    Path("below.score").write_text("".join(targets + nontargets))
    Path("utt2spk").write_text("".join(f"wav/s{n}/{k} s{n}\n" for n in range(8) for k in (1, 2)))
    return "below.score"


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


def test_a_comparison_says_how_to_tell_who_speaks(below_one_folder, capsys):
    Path("other.score").write_text(Path(below_one_folder).read_text().replace("0.0", "0.1"))
    systems = ["compare", f"a={below_one_folder}", "b=other.score", "--num_resamples", "40"]
    assert main(systems) == 1
    message = capsys.readouterr().err
    assert "labels say otherwise" in message
    assert "it is not known who speaks: name the speakers of the utterances (--utt2spk)" in message
    assert main([*systems, "--utt2spk", "utt2spk"]) == 0


def test_threshold_for_a_wanted_rate(foreign, capsys):
    assert main(["threshold", *foreign, "--far", "0.2", "1e-3", "--num_resamples", "50"]) == 0
    shown = capsys.readouterr().out
    assert "| 2e-1        | 0.400000 (" in shown
    assert "1 of 5" in shown
    assert "takes 1,000 non-target trials" in shown


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


def test_compare_takes_any_rate_however_it_is_spelt(capsys):
    systems = [f"q={RUN}/scores/all.score", "ltas=exp/tiny/ltas/scores/all.score"]
    asked = ["--figures", "TAR@FAR 0.10", "TAR@FAR 1e-1", "TAR@FAR 0.101", "minDCF 5e-2", "FAR@TAR 0.85"]
    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "40", "--json", "c.json"]
    assert main(["compare", *systems, *asked, *options]) == 0
    figures = [each["figure"] for each in json.loads(Path("c.json").read_text())]
    assert figures == ["TAR@FAR 1e-1", "TAR@FAR 1.01e-1", "minDCF 0.05", "FAR@TAR 0.85"]
    for nonsense in ("TAR@FAR 2", "TAR@FAR nan", "minDCF x"):
        assert main(["compare", *systems, "--figures", nonsense, *options]) == 1
        assert f"--figures: found {nonsense}, expected some of: EER" in capsys.readouterr().err


def test_compare_takes_each_run_once(capsys):
    one, two = f"{RUN}/scores/all.score", f"{RUN}/../{RUN.name}/scores/all.score"
    assert main(["compare", f"a={one},{two}", "b=exp/tiny/ltas/scores/all.score"]) == 1
    assert "qmargin_a1.5/scores/all.score: stands twice, expected each run once" in capsys.readouterr().err


def as_text(path):
    Path("copy.score").write_bytes(path.read_bytes())


def as_a_link(path):
    Path("copy.score").hardlink_to(path)


def in_another_order(path):
    """And with labels, as another program may have written the same scores."""
    lines = path.read_text().splitlines(keepends=True)
    Path("copy.score").write_text("".join(reversed(lines)))


@pytest.mark.parametrize("copy", [as_text, as_a_link, in_another_order])
def test_a_copy_of_a_run_is_no_second_seed(copy, capsys):
    one, other = RUN / "scores" / "all.score", "exp/tiny/qmargin_a1.75/scores/all.score"
    copy(one)
    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "40", "--figures", "EER"]
    assert main(["compare", f"a={one},{other},copy.score", "b=exp/tiny/ltas/scores/all.score", *options]) == 1
    assert f"a: {one} and copy.score hold the same scores, expected runs that differ" in capsys.readouterr().err
    assert main(["compare", f"a={one},{other}", "b=copy.score", *options]) == 0  # two systems may be as good as one


def test_a_baseline_cannot_take_the_name_of_the_run_in_the_report(capsys):
    assert main([*EVALUATE, "--baseline", "qmargin_a1.5 (trained)=exp/tiny/ltas"]) == 1
    assert "qmargin_a1.5 (trained) is what the run itself is called" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("conf/loss/cosface.yaml", "elsewhere/arcface.yaml", "would both be the run arcface"),
        ("name: CosFace", "name: ArcFace", r"are both called ArcFace \(s 32, m 0.2\)"),
        ('"1e-3": 86.68', '"x": 86.68', "could not convert string to float"),
    ],
)
def test_table5_refuses_rows_that_cannot_be_told_apart(old, new, message):
    text = Path("conf/table5.yaml").read_text()
    assert old in text
    Path("table.yaml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=message):
        read_table("table.yaml")


def test_table5_takes_the_papers_rates_as_numbers():
    text = Path("conf/table5.yaml").read_text().replace('"1e-3": 86.68', "0.001: 86.68")
    Path("table.yaml").write_text(text)
    assert [row.paper_tar for row in read_table("table.yaml").rows] == [
        row.paper_tar for row in read_table("conf/table5.yaml").rows
    ]


def test_compare_systems_and_seeds(capsys):
    def system(name):
        return f"exp/tiny/{name}/scores/all.score"

    options = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "60", "--figures", "EER", "TAR@FAR 1e-1"]
    systems = [f"q={system('qmargin_a1.5')}", f"ltas={system('ltas')}"]
    assert main(["compare", *systems, *options, "--json", "c.json"]) == 0
    shown = capsys.readouterr().out
    assert "EER: ltas less q" in shown
    first, second = json.loads(Path("c.json").read_text())
    assert (first["figure"], first["one"], first["two"]) == ("EER", "q", "ltas")
    assert first["low"] < first["difference"] < first["high"]
    assert second["difference"] < 0
    both = f"margin={system('qmargin_a1.5')},{system('qmargin_a1.75')}"
    assert main(["compare", both, systems[1], *options]) == 0
    shown = capsys.readouterr().out
    assert "deviation of 2 runs" in shown
    assert "One run of ltas: its own interval leaves seeds out" in shown
    assert main(["compare", *systems, "--utt2spk", "data/tiny/eval/utt2spk", "--figures", "eer"]) == 1
    assert "--figures: found eer, expected some of: EER" in capsys.readouterr().err
    assert main(["compare", *systems]) == 1
    assert "it is not known who speaks" in capsys.readouterr().err
    assert main(["compare", systems[0], systems[0], *options]) == 1
    with pytest.raises(SystemExit):
        main(["compare", "q"])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["scores/near.score", "embeddings/eval/xvector.ark"])
def test_a_flipped_bit_stops_the_program_and_what_was_put_back_is_taken(capsys, name):
    path = RUN / name
    whole = path.read_bytes()
    flip_a_bit(path)
    command = EVALUATE if name.startswith("scores") else SCORE
    (RUN / ".done" / command[0]).unlink(missing_ok=True)
    assert main(command) == 1
    message = capsys.readouterr().err
    assert re.search(rf"{path.name}: CRC-32 \w+ of \d+ bytes, expected CRC-32", message)
    assert "If you have put this file here on purpose, delete " in message
    path.write_bytes(whole)
    assert main(command) == 0


def test_damaged_scores_are_made_again_as_the_message_says(capsys):
    path = RUN / "scores" / "near.score"
    whole = path.read_text()
    flip_a_bit(path)
    assert main(EVALUATE) == 1
    assert "delete it and score the trials again (run.sh --stage 5)" in capsys.readouterr().err
    path.unlink()
    assert main(SCORE) == 0
    assert path.read_text() == whole
    assert main(EVALUATE) == 0
