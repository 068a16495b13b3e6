"""AS-norm and S-norm against WeSpeaker's files and against the formula in float64."""

from pathlib import Path

import numpy as np
import pytest

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score import normalisation
from wespeaker_qm.score.cohort import check_apart, load_cohort, speaker_means
from wespeaker_qm.score.cosine import Directions, load_mean, trial_directions
from wespeaker_qm.score.normalisation import cohort_statistics, normalised_scores, quality_measures
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder, SetFolder
from wespeaker_qm.utils.tables import write_rows
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

SCORING = Path(__file__).parents[1] / "oracles_data" / "scoring"


@pytest.mark.parametrize(("file", "top_n"), [("trials.asnorm10", 10), ("trials.snorm", None)])
def test_equal_to_wespeaker(monkeypatch, file, top_n):
    """scoring/ holds what WeSpeaker's score_norm.py wrote (5 and 4 decimals) for these embeddings and this cohort."""
    monkeypatch.chdir(SCORING)
    oracle = read_scores(file)
    trials = read_trial_table("trials")
    table = VectorTable("cohort.scp")
    directions = trial_directions(trials, "eval.scp", load_mean("mean.npy"))
    statistics = cohort_statistics(directions, table.load(table.names), top_n)
    # WeSpeaker normalises the scores that it has rounded to 5 decimals.
    cosines = read_scores("trials.score", trials).scores
    np.testing.assert_allclose(normalised_scores(trials, cosines, statistics), oracle.scores, atol=7e-6, rtol=0)
    np.testing.assert_allclose(quality_measures(trials, directions, statistics), oracle.measures, atol=5.1e-5, rtol=0)


@pytest.mark.parametrize("top_n", [5, 40, 300, 1000, None])
def test_blocks_in_float32_equal_the_formula_in_float64(monkeypatch, tmp_path, top_n):
    monkeypatch.setattr(normalisation, "_BLOCK_ROWS", 13)
    rng = np.random.default_rng(0)
    embeddings = (rng.standard_normal((50, 32)) + 1).astype(np.float32)
    cohort = (rng.standard_normal((600, 32)) + 1).astype(np.float32)
    mean = np.full(32, 0.8, np.float32)
    lines = [f"{i} {(7 * i + 1) % 50} {'target' if i % 2 else 'nontarget'}\n" for i in range(50)]
    (tmp_path / "trials").write_text("".join(lines))
    trials = read_trial_table(tmp_path / "trials")
    rows = embeddings[[int(name) for name in trials.utterances]]
    directions = Directions.of(rows, mean, trials.utterances)
    scores = directions.cosines(trials.enrolment, trials.test)
    statistics = cohort_statistics(directions, cohort, top_n)
    found = normalised_scores(trials, scores, statistics)

    def unit(vectors):
        centred = vectors.astype(np.float64) - mean
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    nearest = -np.sort(-unit(rows) @ unit(cohort).T, axis=1)[:, :top_n]
    np.testing.assert_allclose(statistics.mean, nearest.mean(axis=1), atol=1e-7, rtol=0)
    np.testing.assert_allclose(statistics.deviation, nearest.std(axis=1), atol=1e-7, rtol=0)
    expected = sum(
        0.5 * (scores - nearest.mean(axis=1)[side]) / nearest.std(axis=1)[side]
        for side in (trials.enrolment, trials.test)
    )
    # The nearest 5 of 600 hardly deviate from each other, which makes the round-off of float32 larger.
    np.testing.assert_allclose(found, expected, rtol=1e-5 if top_n == 5 else 1e-6, atol=1e-6)


def test_a_cohort_is_the_mean_of_each_speaker(monkeypatch, tmp_path):
    monkeypatch.setattr("wespeaker_qm.score.cohort._BLOCK_UTTERANCES", 4)
    vectors = np.random.default_rng(0).standard_normal((11, 5)).astype(np.float32)
    names = [f"u{number:02d}" for number in range(11)]
    write_vectors(tmp_path, "xvector", names, vectors)
    speaker = {name: f"s{number % 3}" for number, name in enumerate(names)}
    cohort = speaker_means(tmp_path / "xvector.scp", speaker)
    assert cohort.speakers == ["s0", "s1", "s2"]
    np.testing.assert_allclose(cohort.means, [vectors[number::3].mean(axis=0) for number in range(3)], rtol=1e-6)


def test_refuses_a_cohort_that_tells_nothing():
    directions = Directions.of(np.eye(3, dtype=np.float32), None, ["a", "b", "c"])
    with pytest.raises(RecipeError, match=r"a cohort of 1 speaker, expected at least 2"):
        cohort_statistics(directions, np.ones((1, 3), np.float32), None)
    with pytest.raises(RecipeError, match="3 of 3 utterances have the same cosine with all of the cohort"):
        cohort_statistics(directions, np.ones((4, 3), np.float32), 3)
    many = Directions.of(np.eye(7, dtype=np.float32), None, list("abcdefg"))
    with pytest.raises(RecipeError, match=r"7 of 7 utterances .*: rows \[0, 1, 2, 3, 4\]; look"):
        cohort_statistics(many, np.ones((4, 7), np.float32), None)
    no_direction = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)
    with pytest.raises(RecipeError, match=r"the cohort: 1 of 3 embeddings equal the mean.*\n  cohort speaker 1$"):
        cohort_statistics(directions, no_direction, None)


def test_shared_speakers_and_recordings_are_refused(tmp_path):
    one, other = SetFolder(tmp_path / "one"), SetFolder(tmp_path / "other")
    for folder, speaker, recording in ((one, "x", "a.wav"), (other, "y", "b.wav")):
        folder.path.mkdir()
        folder.utt2spk.write_text(f"u1 {speaker}\nu2 {folder.path.name}\n")
        folder.wav_scp.write_text(f"u1 {recording}\nu2 {folder.path.name}.wav\n")
    check_apart(one, other, "the cohort")  # names of utterances may coincide
    other.utt2spk.write_text("u1 x\nu2 other\n")
    with pytest.raises(RecipeError, match=r"1 speaker is in the cohort \(.*one\) and in the trials .*\n  x$"):
        check_apart(one, other, "the cohort")
    other.utt2spk.write_text("u1 y\nu2 other\n")
    other.wav_scp.write_text("u1 a.wav\nu2 other.wav\n")
    with pytest.raises(RecipeError, match=r"1 recording is in the cohort .*wav.scp\).*\n  a.wav$"):
        check_apart(one, other, "the cohort")
    one.segments.write_text("u1 a 0 1\n")
    check_apart(one, other, "the cohort")


def test_two_speakers_are_a_cohort_and_sums_are_exact(tmp_path):
    """Axes as cohort, so that a cosine is a coordinate, which float32 holds; mean and deviation are then float64's."""
    point = np.array([[0.6, 0.8, 0.0]], np.float32)
    directions = Directions.of(point, None, ["a"])
    two = cohort_statistics(directions, np.eye(3, dtype=np.float32)[:2], None)
    x, y = (float(value) for value in np.float32(directions.unit(slice(None))[0, :2]))
    assert two.mean[0] == pytest.approx((x + y) / 2, rel=1e-15)
    assert two.deviation[0] == pytest.approx((y - x) / 2, rel=1e-12)
    three = cohort_statistics(directions, np.eye(3, dtype=np.float32)[[0, 1, 1]], None)
    assert three.mean[0] == pytest.approx((x + 2 * y) / 3, rel=1e-15)
    assert three.deviation[0] == pytest.approx((y - x) * 2**0.5 / 3, rel=1e-12)
    nearest = cohort_statistics(directions, np.eye(3, dtype=np.float32)[[2, 1, 0]], 2)
    assert (nearest.mean[0], nearest.deviation[0]) == (two.mean[0], two.deviation[0])


def test_the_cohort_is_made_once_and_again_when_its_speakers_change(tmp_path):
    data, exp_dir = tmp_path / "data", tmp_path / "exp"
    info = CorpusInfo(name="x", trials={"all": "eval"}, headline="all", train="train")
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_vectors(exp_dir / "embeddings" / "train", "xvector", ["a", "b", "c", "d"], vectors)
    write_rows(data / "train" / "utt2spk", [("a", "s"), ("b", "s"), ("c", "t"), ("d", "t")])
    expected = [vectors[:2].mean(axis=0), vectors[2:].mean(axis=0)]
    np.testing.assert_array_equal(load_cohort(DataFolder(data), RunFolder(exp_dir), info), expected)
    table = VectorTable(exp_dir / "embeddings" / "train" / "spk_xvector.scp")
    assert table.names == ["s", "t"]
    np.testing.assert_array_equal(table.load(["t", "s"]), expected[::-1])
    ark = exp_dir / "embeddings" / "train" / "spk_xvector.ark"
    before = ark.stat().st_ino
    np.testing.assert_array_equal(load_cohort(DataFolder(data), RunFolder(exp_dir), info), expected)
    assert ark.stat().st_ino == before, "not made again"
    write_rows(data / "train" / "utt2spk", [("a", "s"), ("b", "t"), ("c", "t"), ("d", "thirds")])
    expected = [vectors[0], vectors[1:3].mean(axis=0), vectors[3]]
    np.testing.assert_array_equal(load_cohort(DataFolder(data), RunFolder(exp_dir), info), expected)


def test_means_are_float32_and_a_set_without_utterances_is_refused(tmp_path):
    write_vectors(tmp_path, "xvector", ["a"], np.ones((1, 3), np.float32))
    assert speaker_means(tmp_path / "xvector.scp", {"a": "s"}).means.dtype == np.float32
    with pytest.raises(RecipeError, match=r"xvector\.scp: no utterances for the cohort; extract the training set"):
        speaker_means(tmp_path / "xvector.scp", {})
