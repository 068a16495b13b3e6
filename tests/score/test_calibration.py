"""Calibration: log-likelihood ratios where they are known, and measures that help only where they do."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers
from wespeaker_qm.score.calibration import RIDGE, Calibration, choose, features, fit
from wespeaker_qm.utils.errors import RecipeError


def normal_scores(count, distance=2.0, seed=0):
    """Scores of deviation 1, and labels, of which a fifth are targets."""
    rng = np.random.default_rng(seed)
    is_target = rng.random(count) < 0.2
    return rng.standard_normal(count) + distance * is_target, is_target


def test_finds_the_true_ratios_whatever_the_share_of_targets():
    scores, is_target = normal_scores(100_000)
    model = fit(scores[:, None], is_target)
    found = model.apply(np.array([[-1.0], [0.0], [3.0]]))
    np.testing.assert_allclose(found, [-4, -2, 4], atol=0.1)  # d s - d^2 / 2
    assert model.features == ["score"]


def test_equals_scikit_learns_regression():
    rng = np.random.default_rng(1)
    scores, is_target = normal_scores(800)
    x = np.column_stack([scores, rng.standard_normal((800, 2)) * [1, 5] + [0, 3]])
    model = fit(x, is_target)
    # C multiplies the losses, whose class weights sum to the number of samples; the ridge has half a square there.
    peer = LogisticRegression(C=1 / (2 * RIDGE * 800), class_weight="balanced", tol=1e-10, max_iter=10_000)
    peer.fit((x - model.mean) / model.deviation, is_target)
    np.testing.assert_allclose(model.weight, peer.coef_[0], atol=1e-3)
    np.testing.assert_allclose(model.bias, peer.intercept_[0], atol=1e-3)


def test_features_are_the_same_whichever_side_comes_first():
    rng = np.random.default_rng(0)
    scores, duration, measures = rng.standard_normal(9), rng.uniform(1, 40, (9, 2)), rng.uniform(1, 2, (9, 4))
    x = features(scores, duration, measures)
    assert x.shape == (9, 7)
    np.testing.assert_array_equal(x, features(scores, duration[:, ::-1], measures[:, [1, 0, 3, 2]]))
    assert x[:, 1:3].max() <= np.log(20)
    assert features(scores, duration, None).shape == (9, 3)


@pytest.mark.parametrize("helps", [True, False])
def test_measures_are_used_where_they_help_with_other_speakers(helps):
    rng = np.random.default_rng(0)
    num_speakers = 40 if helps else 12
    one, other = rng.integers(num_speakers, size=(2, 1500)).astype(np.int32)
    is_same = rng.random(1500) < 0.4
    speakers = TrialSpeakers(one, np.where(is_same, one, other), num_speakers)
    is_target = speakers.enrolment == speakers.test
    seconds = rng.uniform(1, 20, (1500, 2))
    # Either short recordings score lower, or what a measure tells is only who speaks.
    lift = 2 * np.log(seconds).min(axis=1) if helps else np.zeros(1500)
    scores = rng.standard_normal(1500) + 2.5 * is_target + lift
    if not helps:
        seconds = np.exp(np.stack([speakers.enrolment % 5, speakers.test % 3], axis=1) / 4 + 0.5)
        scores += 0.5 * rng.standard_normal(num_speakers)[one]
    measures = rng.uniform(1, 2, (1500, 4))
    reached = choose(features(scores, seconds, measures), is_target, speakers)
    assert set(reached) == {1, 3, 7}
    assert list(reached.values()) == sorted(reached.values())
    assert (next(iter(reached)) > 1) == helps


def test_too_few_speakers_to_divide_leave_the_score_alone():
    speakers = TrialSpeakers(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), 2)
    x = features(np.array([1.0, 0, 1]), np.ones((3, 2)), None)
    assert list(choose(x, np.array([True, False, True]), speakers)) == [1]


def test_separable_scores_have_finite_weights():
    model = fit(np.array([[-2.0], [-1], [1], [2]]), np.array([False, False, True, True]))
    assert 0 < model.weight[0] < 100


def test_saves_what_it_is(tmp_path):
    scores, is_target = normal_scores(100)
    model = fit(scores[:, None], is_target)
    model.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == model
    assert cllr(model.apply(scores[:, None]), is_target) < 1
    with pytest.raises(ValueError, match="2 features, expected 1"):
        model.apply(np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2], [True, True], "trials of one kind only"),
        ([1.0, np.inf], [True, False], "not finite"),
        ([1.0, 2, 1, 2], [True, False, True, False], "weight -.* of the score, expected more than 0"),
    ],
)
def test_refuses_lists_that_teach_nothing(scores, labels, message):
    with pytest.raises(RecipeError, match=message):
        fit(np.array(scores)[:, None], np.array(labels))
