"""What Table 5 says of differences, and what it reads."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from wespeaker_qm.evaluate.figures import figure_named
from wespeaker_qm.evaluate.results import Resampling
from wespeaker_qm.report.evaluation import CorpusCard
from wespeaker_qm.report.latex import latex_text
from wespeaker_qm.report.loss_card import LossCard
from wespeaker_qm.report.table5 import conclusion, read_written, table5, table5_rows, write_table5
from wespeaker_qm.report.table5_figures import evaluate_rows
from wespeaker_qm.report.table5_rows import Table5, Table5Row, collect, read_measured, read_table
from wespeaker_qm.stages import compare
from wespeaker_qm.utils.checksums import ChecksumError, checksum_path, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import ExpRoot, RunFolder

NAMES = {"a": "ArcFace", "b": "CosFace", "c": "Q-Margin"}


def difference(figure, one, two, estimate, p_holm, reason=None):
    p_value = None if p_holm is None else p_holm / 2
    return SimpleNamespace(
        figure=figure_named(figure),
        one=one,
        two=two,
        difference=estimate,
        low=None,
        high=None,
        p_value=p_value,
        p_holm=p_holm,
        reason=reason,
    )


def test_sure_is_a_pair_of_its_own_figure_below_five_per_cent():
    """Sure in one figure is not sure in another, and small before the correction is not small after it."""
    text = conclusion(
        [
            difference("EER", "a", "b", 0.01, 0.0499),
            difference("EER", "a", "c", -0.02, 0.001),
            difference("EER", "b", "c", -0.03, 0.05),
            difference("TAR@FAR 1e-3", "a", "b", 0.01, 0.06),
            difference("TAR@FAR 1e-3", "a", "c", 0.01, 0.9),
            difference("minDCF 0.01", "a", "c", 0.01, 0.001),
            difference("TAR@FAR 1e-4", "a", "b", 0.2, None, "3 false accepts"),
            difference("TAR@FAR 1e-2", "a", "b", 0.2, None, "3 false accepts"),
            difference("TAR@FAR 1e-2", "a", "c", -0.2, 0.01),
        ],
        NAMES,
    )
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        "- EER: CosFace above ArcFace; Q-Margin below ArcFace",
        "- TAR@FAR 1e-3: no two losses differ",
        "- TAR@FAR 1e-4: the trials do not support a comparison",
        "- TAR@FAR 1e-2: Q-Margin below ArcFace",
    ]
    assert conclusion([], NAMES) == ""


def test_a_figure_that_no_pair_supports_is_said_to_be_none():
    nothing = SimpleNamespace(
        figure=figure_named("TAR@FAR 1e-2"), one="a", two="b", difference=0.1, p_value=None, p_holm=None
    )
    text = conclusion([difference("EER", "a", "b", 0.01, 0.2), nothing], NAMES)
    assert text.splitlines()[-1] == "- TAR@FAR 1e-2: the trials do not support a comparison"


ROW = "{name: X, alpha: null, scale: 32, margin: 0.2, loss: conf/loss/x.yaml, paper_tar_per_cent: {1e-3: 86.62}}"


def test_the_papers_values_become_fractions(tmp_path):
    path = tmp_path / "table5.yaml"
    path.write_text(f"paper: P\npaper_training_set: T\npaper_test_set: E\nrows:\n- {ROW}\n")
    table = read_table(path)
    assert (table.paper, table.training_set, table.test_set) == ("P", "T", "E")
    (row,) = table.rows
    assert (row.run, row.card.name, row.card.alpha, row.card.scale, row.card.margin) == ("x", "X", None, 32, 0.2)
    assert list(row.paper_tar.values()) == [pytest.approx(0.8662)]


@pytest.mark.parametrize("text", ["rows: [{name: X}]\n", "rows: 3\n", f"rows: [{ROW}]\n"])
def test_a_table_that_lacks_something_is_refused(tmp_path, text):
    (tmp_path / "table5.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"table5\.yaml: .*; expected the keys of conf/table5\.yaml in every row"):
        read_table(tmp_path / "table5.yaml")


SPEAKER = {f"{speaker}{number}": speaker for speaker in "abcde" for number in (1, 2)}
CORPUS = CorpusCard(name="tiny_corpus", description="Simulated.", caveat="No voices.", headline="near")
CARDS = {
    "good": LossCard(name="ArcFace", alpha=None, scale=32.0, margin=0.2),
    "bad": LossCard(name="Q-Margin", alpha=1.5, scale=10.0, margin=0.1),
}
TABLE = Table5(
    paper="The paper",
    training_set="Theirs",
    test_set="Hard",
    rows=[
        Table5Row(
            card=card, loss=Path(f"conf/loss/{run}.yaml"), paper_tar=dict.fromkeys((1e-3, 1e-4), 0.8662 - position / 10)
        )
        for position, (run, card) in enumerate(CARDS.items())
    ],
)


def figures(results):
    """On the list near, without intervals."""
    return evaluate_rows(TABLE.rows, results, "near", SPEAKER, None)


def write_run(root, run, trained, rows=None, *, like=None, minutes=6.78, **changes):
    """Of 5 target and 40 non-target trials ``bad`` has a target at 0, above it 4 targets, and below these 8 others.

    ``like`` is the run whose scores it has, itself by default.
    """
    like = run if like is None else like
    rows = list(itertools.combinations(SPEAKER, 2)) if rows is None else rows
    lines, num_others = [], 0
    for one, two in rows:
        is_target = SPEAKER[one] == SPEAKER[two]
        num_others += not is_target
        if like == "good":
            score = 0.9 if is_target else 0.1
        else:
            score = (0.0 if one == "c1" else 0.9) if is_target else (0.5 if num_others <= 8 else -0.5)
        lines.append(f"{one} {two} {score} {'target' if is_target else 'nontarget'}\n")
    (root / run / "scores").mkdir(parents=True, exist_ok=True)
    (root / run / "scores" / "near.score").write_text("".join(lines))
    metrics = {
        "corpus": {"name": CORPUS.name, "headline": CORPUS.headline},
        "training": {"loss": dataclasses.asdict(trained), "num_samples": 12345, "minutes": minutes},
        "trial_lists": {"near": {"systems": {"trained": {"eer": 0.0 if like == "good" else 0.2}}}},
    }
    write_checked_text(root / run / "metrics.json", json.dumps(metrics | changes))


@pytest.fixture
def runs(tmp_path):
    """Two evaluated runs; ``bad`` was trained with another scale than the paper's."""
    write_run(tmp_path, "good", CARDS["good"])
    write_run(tmp_path, "bad", dataclasses.replace(CARDS["bad"], scale=16.0))
    return tmp_path


def test_a_run_is_its_scores_and_its_training(runs):
    run = read_measured(RunFolder(runs / "bad"), CORPUS, ["near"])
    assert run.trained == LossCard(name="Q-Margin", alpha=1.5, scale=16.0, margin=0.1)
    assert (run.num_samples, run.minutes) == (12345, 6.78)
    assert len(run.trials) == len(run.scores["near"]) == 45
    assert sorted(run.scores["near"][run.trials.is_target]) == [0.0, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {"name": "other", "headline": "near"}}, "figures of other/near, expected tiny_corpus/near"),
        ({"corpus": {"name": "tiny_corpus", "headline": "far"}}, "figures of tiny_corpus/far, expected"),
        ({"training": None}, "says nothing of a training"),
        ({"trial_lists": {"near": {"systems": {"trained": {"eer": 0.1}}}}}, r"EER 0\.1, but .*near\.score has 0\.2; "),
    ],
)
def test_a_run_of_something_else_is_refused(runs, changes, message):
    write_run(runs, "bad", CARDS["bad"], **changes)
    with pytest.raises(RecipeError, match=rf"bad/metrics\.json: {message}"):
        read_measured(RunFolder(runs / "bad"), CORPUS, ["near"])


def test_missing_rows_are_named_or_left_out(runs):
    (good,), (bad,) = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    assert good.trained == CARDS["good"]
    assert bad.trained.name == "Q-Margin"
    (runs / "good" / "metrics.json").unlink()
    with pytest.raises(RecipeError, match=r"^1 of 2 runs ") as error:
        collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    command = f"./run.sh --loss conf/loss/good.yaml --exp_dir {runs / 'good'}"
    assert str(error.value).endswith(f":\n  {runs / 'good'}: {command}")
    good, (bad,) = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"], partial=True)
    assert good == []
    assert bad.trained.name == "Q-Margin"
    (runs / "bad" / "metrics.json").unlink()
    with pytest.raises(RecipeError, match=r"^2 of 2 runs"):
        collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"], partial=True)


def test_runs_on_other_trials_are_refused(runs):
    write_run(runs, "bad", CARDS["bad"], [*itertools.combinations(SPEAKER, 2)][::-1])
    with pytest.raises(RecipeError, match=r"bad/scores/near\.score: not the trials of .*good/scores/near\.score"):
        collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])


def test_rows_by_hand(runs):
    """As many misses as false accepts, a fifth, between 0 and 0.5; no false accept, and a miss, above 0.5."""
    results = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    header, rows, not_measurable = table5_rows(TABLE, results, figures(results), "tiny_corpus")
    assert header == [
        *("loss", "tiny_corpus: EER", "tiny_corpus: TAR@1e-1"),
        *("paper, Hard: TAR@1e-3", "paper, Hard: TAR@1e-4"),
    ]
    assert rows == [
        ["ArcFace (s 32, m 0.2)", "0.00", "100.00", "86.62", "86.62"],
        ["Q-Margin (α 1.5, s 10, m 0.1) †", "20.00", "80.00", "76.62", "76.62"],
    ]
    # on 40 non-targets
    assert not_measurable == "Not measurable with so few non-target trials: TAR@1e-2, 1e-3, 1e-4, 1e-5."
    partial = [results[0], []]
    _, rows, _ = table5_rows(TABLE, partial, figures(partial), "tiny_corpus")
    assert rows[1] == ["Q-Margin (α 1.5, s 10, m 0.1)", "not trained", "not trained", "76.62", "76.62"]


def test_the_text_says_what_was_trained_and_on_what(runs):
    results = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    measured = figures(results)
    text = table5(TABLE, results, {"near": measured}, CORPUS)
    title, sentences, *paragraphs = text.split("\n\n")
    assert sentences.startswith(
        "- On list near, ArcFace (s 32, m 0.2) errs least of 2 losses (equal error rate 0.00 %) and "
    )
    assert title == "# The losses of Table 5 on tiny_corpus"
    assert paragraphs[:2] == ["Simulated.", "> **Mind:** No voices."]
    assert paragraphs[2].startswith("Columns tiny_corpus: measured here, per cent; ")
    assert "`paper`: The paper, trained on Theirs, tested on Hard. " in paragraphs[2]
    assert paragraphs[3:5] == [
        "## near (headline)",
        "5 target and 40 non-target trials of 10 utterances by 5 speakers.",
    ]
    assert paragraphs[5].startswith("| loss ")
    assert paragraphs[6].startswith("Not measurable with so few ")
    assert paragraphs[7:] == [
        "No intervals: none were asked for (--num_resamples 0).",
        "Training here:",
        "- ArcFace (s 32, m 0.2): 12,345 samples, 6.8 minutes\n- Q-Margin (α 1.5, s 10, m 0.1): "
        "12,345 samples, 6.8 minutes; † **trained here as Q-Margin (α 1.5, s 16, m 0.1)**",
        "![DET curves on tiny_corpus](det_table5.png)\n",
    ]
    assert "Mind" not in table5(TABLE, results, {"near": measured}, dataclasses.replace(CORPUS, caveat=""))
    few = dataclasses.replace(measured, result=dataclasses.replace(measured.result, num_speakers=4))
    text = table5(TABLE, results, {"near": few}, CORPUS)
    assert text.startswith("# The losses of Table 5 on tiny_corpus (4 speakers: too few to tell)\n")
    assert table5(TABLE, [results[0], []], {"near": measured}, CORPUS).count(" samples, ") == 1


@pytest.fixture
def seeds(runs, tmp_path_factory):
    """The folders of two seeds, each with the runs on two lists of the same trials."""
    other = tmp_path_factory.mktemp("seed2")
    write_run(other, "good", CARDS["good"], like="bad", minutes=7.5)
    write_run(other, "bad", dataclasses.replace(CARDS["bad"], scale=16.0), like="good")
    for root in (runs, other):
        for run in CARDS:
            path = root / run / "metrics.json"
            metrics = json.loads(path.read_text())
            metrics["trial_lists"]["clean"] = metrics["trial_lists"]["near"]
            write_checked_text(path, json.dumps(metrics))
            shutil.copy(root / run / "scores" / "near.score", root / run / "scores" / "clean.score")
    return [ExpRoot(runs), ExpRoot(other)]


def test_seeds_are_averaged_and_their_deviation_is_shown(seeds):
    """Of each loss one seed errs in a fifth of the trials and the other in none: mean 10 %, deviation 20 % / sqrt 2."""
    lists = {"near": SPEAKER, "clean": SPEAKER}
    results = collect(TABLE, seeds, CORPUS, list(lists))
    assert [len(of_row) for of_row in results] == [2, 2]
    text = write_table5(TABLE, results, CORPUS, seeds, speakers=lists, resampling=None)
    assert text.count(" 10.00 ± 14.14 |") == 4
    assert text.index("## near (headline)") < text.index("## clean\n") < text.index("Training here:")
    assert "per cent; mean ± deviation of the seeds; " in text
    assert "- On list near, all of 2 losses have the same equal error rate, 10.00 %." in text
    assert "\n- On list clean, all of 2 losses " in text
    assert "- Figures are means over 2 seeds, " in text
    assert "trained once" not in text
    assert "- ArcFace (s 32, m 0.2): 2 seeds, each 12,345 samples, 6.8 to 7.5 minutes\n" in text
    content = read_written(seeds[0].table5("json"))
    assert list(content["tables"]) == ["near", "clean"]
    assert content["roots"] == list(map(str, seeds))
    assert not seeds[1].table5("json").exists()


def test_differences_of_seeds_are_those_of_compare(seeds):
    """Speakers and seeds together, as `compare` has them, which a simulation has validated."""
    results = collect(TABLE, seeds, CORPUS, ["near"])
    resampling = Resampling("speaker", 30, 0)
    measured = evaluate_rows(TABLE.rows, results, "near", SPEAKER, resampling)
    files = [[root.run(row.run).scores("near") for root in seeds] for row in TABLE.rows]
    utt2spk = seeds[0].path / "utt2spk"
    utt2spk.write_text("".join(f"{key} {value}\n" for key, value in SPEAKER.items()))
    found = compare(systems=dict(zip(("good", "bad"), files, strict=True)), utt2spk=utt2spk, num_resamples=30)
    here = {each.figure: each for each in measured.result.comparisons}
    assert {each.figure: each for each in found if each.figure in here} == here
    assert figure_named("EER") in here


@pytest.mark.parametrize("change", ["copy", "other"])
def test_what_is_no_other_seed_is_refused(runs, tmp_path_factory, change):
    other = tmp_path_factory.mktemp("seed2")
    for run, card in CARDS.items():
        trained = dataclasses.replace(card, scale=16.0) if run == "bad" else card
        if change == "other" and run == "good":
            trained = dataclasses.replace(card, margin=0.3)
        write_run(other, run, trained)
    message = {
        "copy": r"ArcFace .*: .*good and .*good hold the same scores, expected runs that differ in their seed",
        "other": r"good: trained as ArcFace \(s 32, m 0\.3\), but .* as ArcFace \(s 32, m 0\.2\); expected runs that",
    }
    with pytest.raises(RecipeError, match=message[change]):
        collect(TABLE, [ExpRoot(runs), ExpRoot(other)], CORPUS, ["near"])


def test_seeds_that_are_missing_are_named_with_another_seed(runs, tmp_path):
    roots = [ExpRoot(runs), ExpRoot(tmp_path / "none")]
    with pytest.raises(RecipeError, match=r"^2 of 4 runs of Table 5") as error:
        collect(TABLE, roots, CORPUS, ["near"])
    assert f"--loss conf/loss/bad.yaml --exp_dir {tmp_path / 'none' / 'bad'} --overrides seed=2" in str(error.value)
    assert [len(of_row) for of_row in collect(TABLE, roots, CORPUS, ["near"], partial=True)] == [1, 1]


def test_differences_are_those_of_error_rates_that_were_tested(runs):
    results = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    measured = figures(results)
    comparisons = [
        difference("EER", "good", "bad", 0.2, 0.01),
        difference("minDCF 0.01", "good", "bad", 0.2, 0.01),
        difference("FAR@TAR 0.9", "good", "bad", 0.2, 0.01),
        difference("TAR@FAR 1e-1", "good", "bad", -0.2, None, "8 false accepts"),
    ]
    measured = dataclasses.replace(measured, result=dataclasses.replace(measured.result, comparisons=comparisons))
    text = table5(TABLE, results, {"near": measured}, CORPUS)
    assert "- EER: Q-Margin (α 1.5, s 10, m 0.1) above ArcFace (s 32, m 0.2)\n" in text
    assert "- TAR@FAR 1e-1: the trials do not support a comparison" in text
    differences = text[text.index("## Differences") :]
    assert [line.split(" | ")[0] for line in differences.splitlines() if " less " in line] == [
        "| EER: Q-Margin (α 1.5, s 10, m 0.1) less ArcFace (s 32, m 0.2)"
    ]
    assert "better or worse than ArcFace (s 32, m 0.2) the others are" in differences


def test_files_hold_the_same_table(runs):
    results = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    resampling = Resampling("speaker", 20, 0)
    text = write_table5(TABLE, results, CORPUS, [ExpRoot(runs)], speakers={"near": SPEAKER}, resampling=resampling)
    assert (runs / "table5.md").read_text() == text
    measured = evaluate_rows(TABLE.rows, results, "near", SPEAKER, resampling)
    assert measured.result.resampling == resampling
    header, rows, not_measurable = table5_rows(TABLE, results, measured, "tiny_corpus")
    content = read_written(runs / "table5.json")
    assert content["tables"] == {"near": [header, rows, not_measurable]}
    assert content["runs"] == ["good", "bad"]
    labels = {("ArcFace (s 32, m 0.2)", "Q-Margin (α 1.5, s 10, m 0.1) †")}
    assert {(each["one"], each["two"]) for each in content["comparisons"]} == labels
    assert [each["figure"] for each in content["comparisons"]] == [
        each.figure.name for each in measured.result.comparisons
    ]
    tex = (runs / "table5.tex").read_text().splitlines()
    assert tex[:2] == ["% near", f"% {' & '.join(map(latex_text, header))}"]
    assert [line.split(" & ")[0] for line in tex[2:]] == ["ArcFace (s 32, m 0.2)", "Q-Margin (α 1.5, s 10, m 0.1) †"]
    assert all(line.endswith(r" \\") and line.count(" & ") == len(header) - 1 for line in tex[2:])
    assert (runs / "det_table5.png").read_bytes().startswith(b"\x89PNG")
    (runs / "table5.json").write_text((runs / "table5.json").read_text().replace("ArcFace", "Arcface"))
    with pytest.raises(ChecksumError, match=r"table5\.json: .*--table5 true --stage 5"):
        read_written(runs / "table5.json")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (ROW.replace("X", "Y"), r"the losses conf/loss/x\.yaml and conf/loss/x\.yaml would both be the run x;"),
        (
            ROW.replace("x.yaml", "y.yaml"),
            r"the rows of conf/loss/x\.yaml and conf/loss/y\.yaml are both called X \(s 32",
        ),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(tmp_path, second, message):
    path = tmp_path / "table5.yaml"
    path.write_text(f"paper: P\npaper_training_set: T\npaper_test_set: E\nrows:\n- {ROW}\n- {second}\n")
    with pytest.raises(RecipeError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"summary": None},
        {"tables": None},
        {"tables": {"near": None}},
        {"tables": {"near": ["loss", [], ""]}},
        {"tables": {"near": [["loss", "EER"], [["one cell"]], ""]}},
        {"tables": {"near": [["loss"], None, ""]}},
        {"tables": {"near": [["loss"], [], None]}},
        {"roots": 1},
        {"runs": {"good": 1}},
        {"runs": [1]},
        {"comparisons": [{"figure": "EER"}]},
        {"comparisons": None},
        None,
    ],
)
def test_a_table_of_another_shape_is_refused(runs, change):
    """A file without a checksum is read as it is, so its shape is all that tells."""
    results = collect(TABLE, [ExpRoot(runs)], CORPUS, ["near"])
    write_table5(TABLE, results, CORPUS, [ExpRoot(runs)], speakers={"near": SPEAKER}, resampling=None)
    path = runs / "table5.json"
    content = json.loads(path.read_text())
    checksum_path(path).unlink()
    path.write_text(json.dumps(content))
    assert read_written(path) == content
    path.write_text(json.dumps({**content, **change} if isinstance(change, dict) else change))
    with pytest.raises(RecipeError, match=r"table5\.json: found .*, expected .*run\.sh --table5 true --stage 5"):
        read_written(path)


@pytest.mark.parametrize(
    "content",
    [
        *(None, [], "text", {}, {"corpus": [], "trial_lists": {}, "training": {}}),
        {"corpus": {"name": "tiny_corpus", "headline": "near"}, "trial_lists": {"near": {"systems": {}}}},
    ],
)
def test_metrics_of_another_shape_are_refused(runs, content):
    path = runs / "bad" / "metrics.json"
    checksum_path(path).unlink()
    path.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"bad/metrics\.json: found .*expected the figures of an evaluation; "):
        read_measured(RunFolder(runs / "bad"), CORPUS, ["near"])


@pytest.mark.parametrize(
    "training",
    [
        *("much", {}, {"loss": {"name": "X"}, "num_samples": 1, "minutes": 1.0}),
        {"loss": dataclasses.asdict(CARDS["bad"]), "num_samples": "many", "minutes": 1.0},
        {"loss": dataclasses.asdict(CARDS["bad"]) | {"scale": None}, "num_samples": 1, "minutes": 1.0},
    ],
)
def test_a_training_of_another_shape_is_refused(runs, training):
    write_run(runs, "bad", CARDS["bad"], training=training)
    with pytest.raises(RecipeError, match=r"bad/metrics\.json: found .*Error: .*, expected the figures of an eval"):
        read_measured(RunFolder(runs / "bad"), CORPUS, ["near"])
    write_run(runs, "bad", CARDS["bad"], trial_lists={"near": {"systems": {"trained": {}}}})
    with pytest.raises(RecipeError, match=r"bad/metrics\.json: found .*KeyError: 'eer'\), expected the figures"):
        read_measured(RunFolder(runs / "bad"), CORPUS, ["near"])
