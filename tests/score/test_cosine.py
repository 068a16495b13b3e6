"""Cosine scores against WeSpeaker's, and what is refused before scoring starts."""

from pathlib import Path
from unittest.mock import Mock

import kaldiio
import numpy as np
import pytest

from wespeaker_qm.score import cosine
from wespeaker_qm.trials import score_files
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, to_digits, write_scores
from wespeaker_qm.utils.errors import RecipeError

SCORING = Path(__file__).parents[1] / "oracles_data" / "scoring"


@pytest.fixture
def save(tmp_path):
    """Write vectors as ark and scp; returns the scp."""

    def save_vectors(vectors):
        scp = tmp_path / "xvector.scp"
        kaldiio.save_ark(str(tmp_path / "xvector.ark"), vectors, scp=str(scp))
        return scp

    return save_vectors


@pytest.fixture
def trials(tmp_path):
    path = tmp_path / "trials"
    path.write_text("a b target\na c nontarget\nb c nontarget\n")
    return read_trial_table(path)


def test_equal_to_wespeaker(monkeypatch):
    """scoring/ holds what WeSpeaker's trials_cosine_score wrote (5 decimals) for these embeddings and this mean."""
    monkeypatch.chdir(SCORING)  # eval.scp names eval.ark relative to the current directory
    trials = read_trial_table("trials")
    scores = cosine.score_trials(trials, "eval.scp", cosine.load_mean("mean.npy"))
    oracle = read_scores("trials.score")
    assert oracle.trials.same_trials(trials)
    np.testing.assert_allclose(scores, oracle.scores, atol=5.0001e-6, rtol=0)


def test_blocks_equal_one_pair_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((20, 7)).astype(np.float32)
    mean = rng.standard_normal(7).astype(np.float32)
    enrolment, test = rng.integers(0, 20, (2, 101))
    monkeypatch.setattr(cosine, "BLOCK_ROWS", 7)
    directions = cosine.Directions.of(embeddings, mean, [str(i) for i in range(20)])
    scores = directions.cosines(enrolment, test)
    for i, j, score in zip(enrolment, test, scores, strict=True):
        x, y = embeddings[i].astype(float) - mean, embeddings[j].astype(float) - mean
        assert score == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=1e-12)
    assert np.abs(scores).max() <= 1


def test_scores_keep_nine_digits(tmp_path, trials):
    scores = np.array([1 / 3, -1 / 7000, 1.0])
    write_scores(tmp_path / "out" / "x.score", trials, scores)
    text = (tmp_path / "out" / "x.score").read_text()
    assert text == "a b 0.333333333 target\na c -0.000142857143 nontarget\nb c 1 nontarget\n"
    again = read_scores(tmp_path / "out" / "x.score")
    assert again.trials.same_trials(trials)
    np.testing.assert_allclose(again.scores, scores, rtol=1e-9)


def test_scores_without_mean_and_with_unused_embeddings(save, trials):
    scp = save(
        {key: np.array(v, np.float32) for key, v in {"c": [0, 2], "a": [1, 0], "x": [np.nan, 1], "b": [3, 3]}.items()}
    )
    np.testing.assert_allclose(cosine.score_trials(trials, scp), [0.5**0.5, 0, 0.5**0.5])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"a": [1, 0]}, "2 of the 3 utterances have no embedding.*\n  b\n  c"),
        (
            {"a": [1, 0], "b": [np.nan, 0], "c": [np.inf, 1]},
            "2 of 3 embeddings hold values.*\n  b\n  c",
        ),
        ({"a": [1, 0], "b": [0.5, 0.5], "c": [0, 1]}, r"xvector\.scp: 1 of 3 embeddings equal the mean vector.*\n  b"),
        ({"a": [1, 0], "b": [0.5, 0.5, 1], "c": [0, 1]}, "expected one vector length"),
        ({"a": [1, 0, 0], "b": [1, 0, 0], "c": [1, 0, 0]}, r"the mean vector has shape \(2,\), expected \(3,\)"),
    ],
)
def test_refuses_before_scoring(save, trials, vectors, message):
    scp = save({key: np.array(vector, np.float32) for key, vector in vectors.items()})
    with pytest.raises(RecipeError, match=message):
        cosine.score_trials(trials, scp, np.array([0.5, 0.5], np.float32))


def test_missing_files_name_the_stage(tmp_path, trials):
    (tmp_path / "broken.scp").write_text("".join(f"{key} {tmp_path}/none.ark:5\n" for key in "abc"))
    with pytest.raises(RecipeError, match="cannot be read"):
        cosine.score_trials(trials, tmp_path / "broken.scp")
    with pytest.raises(RecipeError, match=r"none\.scp: no such file; run the stage"):
        cosine.score_trials(trials, tmp_path / "none.scp")
    with pytest.raises(RecipeError, match=r"mean_vec\.npy: no such file"):
        cosine.load_mean(tmp_path / "mean_vec.npy")


@pytest.mark.parametrize("digits", [6, 9])
def test_rounded_numbers_survive_their_text(digits):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000) * 10.0 ** rng.integers(-7, 12, 20_000)
    values[:6] = [0, 1, -1, 0.1, 0.9999999999, 123456789.5]
    rounded = to_digits(values, digits)
    texts = [f"{value:.{digits}g}" for value in rounded.tolist()]
    np.testing.assert_array_equal(rounded, [float(text) for text in texts])
    np.testing.assert_allclose(rounded, values, rtol=0.51 * 10.0 ** (1 - digits))


def test_round_off_leaves_no_cosine_beyond_one():
    """Vectors with themselves and with their negatives; without a limit some hundred of these lie beyond 1 or -1."""
    vectors = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    directions = cosine.Directions.of(np.concatenate([vectors, -vectors]), None, [str(i) for i in range(2000)])
    rows = np.arange(1000, dtype=np.int32)
    assert directions.cosines(rows, rows).max() == 1
    assert directions.cosines(rows, rows + 1000).min() == -1


def test_measures_stand_behind_the_label_with_six_digits(tmp_path, trials, monkeypatch):
    monkeypatch.setattr(score_files, "BLOCK_TRIALS", 2)
    scores = np.array([0.5, 123456.7891, -1.0])
    measures = np.array([[1 / 3, 2.0, 30.0, 4e-7], [10.0, 1234567.0, 0.0, -1.5], [1.0, 2.0, 3.0, 4.0]])
    write_scores(tmp_path / "x.score", trials, scores, measures)
    lines = (tmp_path / "x.score").read_text().splitlines()
    assert lines == [
        "a b 0.5 target 0.333333 2 30 4e-07",
        "a c 123456.789 nontarget 10 1.23457e+06 0 -1.5",
        "b c -1 nontarget 1 2 3 4",
    ]
    cached = read_scores(tmp_path / "x.score")
    (tmp_path / "x.score.npz").unlink()
    parsed = read_scores(tmp_path / "x.score")
    np.testing.assert_array_equal(parsed.scores, [0.5, 123456.789, -1])
    np.testing.assert_array_equal(cached.scores, parsed.scores)
    np.testing.assert_array_equal(cached.measures, parsed.measures)


@pytest.mark.parametrize("text", [True, False])
def test_where_writing_fails_no_older_scores_are_left(tmp_path, trials, monkeypatch, text):
    """They would be taken for the new ones."""
    path = tmp_path / "deep" / "x.score"
    write_scores(path, trials, np.array([1.0, 2.0, 3.0]), text=False)
    monkeypatch.setattr(score_files, "write_cache", Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_scores(path, trials, np.array([4.0, 5.0, 6.0]), text=text)
    assert not cache_path(path).exists()
    assert path.exists() == text


class Trap:
    """An object whose pickle makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_mean_that_is_a_pickle_is_refused_before_it_runs_anything(tmp_path):
    np.save(tmp_path / "mean_vec.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(RecipeError, match=r"mean_vec\.npy: "):
        cosine.load_mean(tmp_path / "mean_vec.npy")
    assert not (tmp_path / "sprung").exists()


def test_numbers_too_small_for_their_digits_keep_22_places():
    assert to_digits(np.array([1.23456789e-18, -4.5678912e-20]), 9).tolist() == [1.2346e-18, -4.57e-20]
