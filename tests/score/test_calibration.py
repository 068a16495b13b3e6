"""Calibration: log-likelihood ratios where they are known; measures that help where they do, and never decide."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.operating_points import equal_error_rate, roc_steps
from wespeaker_qm.score import calibration_fit
from wespeaker_qm.score.calibration import quality
from wespeaker_qm.score.calibration_check import EerCheck, check_eer
from wespeaker_qm.score.calibration_fit import RIDGE, CalibrationError, choose, fit
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.errors import RecipeError


def normal_scores(count, distance=2.0, seed=0):
    """Scores of deviation 1, and labels, of which a fifth are targets."""
    rng = np.random.default_rng(seed)
    is_target = rng.random(count) < 0.2
    return rng.standard_normal(count) + distance * is_target, is_target


def alone(scores):
    """No quality measures of ``scores`` (N,)."""
    return np.empty((len(scores), 0, 2))


def eer(scores, is_target):
    return equal_error_rate(roc_steps(scores, is_target)).rate


def pieces(seed, num_speakers=60, *, cut, lift=0.0, distance=1.87):
    """A trial list whose scores have an EER of 17.5 %: scores, quality (N, 3, 2), labels, speakers.

    With ``cut`` each speaker has one recording, cut into pieces of equal length: both sides of a target trial have the
    same duration, and the same embedding length and cohort mean. Otherwise these are drawn for each side of a trial.
    ``lift`` is by how much a target's score rises with a unit of the mean log duration: short ones score lower.
    """
    rng = np.random.default_rng(seed)
    owner = rng.integers(num_speakers, size=30 * num_speakers)
    one = rng.integers(num_speakers, size=90 * num_speakers)
    other = (one + rng.integers(1, num_speakers, size=len(one))) % num_speakers
    speakers = TrialSpeakers(
        np.concatenate([owner, one]).astype(np.int32), np.concatenate([owner, other]).astype(np.int32), num_speakers
    )
    is_target = speakers.enrolment == speakers.test
    of_speaker = np.stack([speakers.enrolment, speakers.test], axis=1) if cut else None
    columns = []
    for centre, deviation in ((1.5, 0.6), (3.0, 0.1), (0.2, 0.05)):
        drawn = rng.standard_normal(num_speakers)[of_speaker] if cut else rng.standard_normal((len(is_target), 2))
        columns.append(centre + deviation * drawn)
    q = np.stack(columns, axis=1)
    scores = rng.standard_normal(len(is_target)) + distance * is_target
    scores += lift * is_target * (q[:, 0].mean(axis=1) - 1.5)
    return scores, q, is_target, speakers


def test_finds_the_true_ratios_whatever_the_share_of_targets():
    scores, is_target = normal_scores(100_000)
    model = fit(scores, alone(scores), is_target)
    found = model.apply(np.array([-1.0, 0.0, 3.0]), np.empty((3, 0, 2)))
    np.testing.assert_allclose(found, [-4, -2, 4], atol=0.1)  # d s - d^2 / 2
    assert model.measures == []


def test_equals_scikit_learns_regression():
    scores, is_target = normal_scores(800)
    scores = 7 * scores - 3
    slope, offset = fit(scores, alone(scores), is_target).base
    # C multiplies the losses, whose class weights sum to the number of samples; the ridge has half a square there.
    peer = LogisticRegression(C=1 / (2 * RIDGE * 800), class_weight="balanced", tol=1e-10, max_iter=10_000)
    peer.fit((scores[:, None] - scores.mean()) / scores.std(), is_target)
    np.testing.assert_allclose(slope * scores.std(), peer.coef_[0, 0], atol=1e-3)
    np.testing.assert_allclose(offset + slope * scores.mean(), peer.intercept_[0], atol=1e-3)


def regression(scores, q, is_target):
    """WeSpeaker's form: logistic regression on the score and the smaller and larger of each measure."""
    x = np.column_stack([scores, q.min(axis=2), q.max(axis=2)])
    deviation, mean = x.std(axis=0), x.mean(axis=0)
    peer = LogisticRegression(C=1e4, class_weight="balanced", max_iter=5000).fit((x - mean) / deviation, is_target)
    return lambda scores, q: peer.decision_function(
        (np.column_stack([scores, q.min(axis=2), q.max(axis=2)]) - mean) / deviation
    )


@pytest.mark.parametrize("num_measures", [1, 3])
def test_equal_pieces_of_recordings_teach_nothing(num_measures):
    """Equal durations (lengths, cohort means) on both sides give the speaker away, in the calibration list and in that
    of the trials. A regression on them makes 17.5 % into less than 2; the EER must stay what the scores have."""
    scores, q, is_target, speakers = pieces(0, cut=True)
    q = q[:, :num_measures]
    new_scores, new_q, new_is_target, _ = pieces(1, cut=True)
    new_q = new_q[:, :num_measures]
    raw = eer(new_scores, new_is_target)
    assert raw == pytest.approx(0.175, abs=0.01)
    assert eer(regression(scores, q, is_target)(new_scores, new_q), new_is_target) < 0.02

    model = fit(scores, q, is_target)  # even where nobody chose to leave the measures out
    llr = model.apply(new_scores, new_q)
    assert eer(llr, new_is_target) == pytest.approx(raw, abs=0.005)
    assert check_eer(model, new_scores, llr, new_q, new_is_target).is_sound
    assert cllr(llr, new_is_target) == pytest.approx(
        cllr(fit(scores, alone(scores), is_target).apply(new_scores, new_q), new_is_target), abs=0.01
    )
    assert choose(scores, q, is_target, speakers).num_measures == 0


def test_a_leak_in_the_calibration_list_alone_does_no_harm():
    scores, q, is_target, _ = pieces(0, cut=True)
    new_scores, new_q, new_is_target, _ = pieces(1, cut=False)
    raw = eer(new_scores, new_is_target)
    assert cllr(regression(scores, q, is_target)(new_scores, new_q), new_is_target) > 1
    llr = fit(scores, q, is_target).apply(new_scores, new_q)
    assert eer(llr, new_is_target) == pytest.approx(raw, abs=0.005)
    assert cllr(llr, new_is_target) < 0.6


def test_durations_of_targets_alone_say_nothing():
    """All target trials are short and all others long, but a score means the same for both."""
    scores, q, is_target, speakers = pieces(9, cut=False)
    q[:, 0] -= 3.0 * is_target[:, None]
    raw = eer(scores, is_target)
    assert eer(regression(scores, q, is_target)(scores, q), is_target) < 0.01
    assert eer(fit(scores, q[:, :1], is_target).apply(scores, q), is_target) > raw - 0.005
    assert choose(scores, q, is_target, speakers).num_measures == 0


@pytest.mark.parametrize("cut", [True, False])
def test_durations_help_where_short_recordings_score_lower(cut):
    scores, q, is_target, speakers = pieces(2, num_speakers=120, cut=cut, lift=1.2)
    choice = choose(scores, q, is_target, speakers)
    assert choice.num_measures >= 1
    new_scores, new_q, new_is_target, _ = pieces(3, cut=False, lift=1.2)
    model = fit(scores, q[:, : choice.num_measures], is_target)
    llr = model.apply(new_scores, new_q)
    assert check_eer(model, new_scores, llr, new_q, new_is_target).notes() == []
    base = fit(scores, alone(scores), is_target).apply(new_scores, new_q)
    assert cllr(llr, new_is_target) < cllr(base, new_is_target) - 0.02
    assert eer(llr, new_is_target) < eer(base, new_is_target)


def test_what_measures_may_change_is_bounded():
    scores, q, is_target, _ = pieces(4, cut=False, lift=3.0)
    model = fit(scores, q, is_target)
    rng = np.random.default_rng(0)
    anywhere = rng.normal(0, 10, (200, 3, 2))
    line = np.linspace(-20, 20, 200)
    for row in anywhere:
        llr = model.apply(line, np.broadcast_to(row, (200, 3, 2)))
        base = fit(scores, alone(scores), is_target).apply(line, alone(line))
        assert np.abs(llr - base).max() <= np.log(3) + 1e-12
        assert (np.diff(llr) > 0).all()  # of trials of one quality the score decides
    both = model.apply(line, anywhere)
    np.testing.assert_array_equal(both, model.apply(line, anywhere[:, :, ::-1]))
    edge = np.clip(anywhere, np.array(model.low)[:, None], np.array(model.high)[:, None])
    np.testing.assert_array_equal(both, model.apply(line, edge))
    assert (anywhere != edge).any(axis=(1, 2)).mean() > 0.9
    steep = dataclasses.replace(model, target_slope=[50.0, 0.0, 0.0])
    separation = steep.conditional(anywhere)[0]
    assert (separation.min(), separation.max()) == (0.5, 2.0)
    inside = rng.uniform(model.low, model.high, (200, 2, 3)).transpose(0, 2, 1)
    equal = np.repeat(inside.mean(axis=2, keepdims=True), 2, axis=2)
    np.testing.assert_allclose(model.apply(line, inside), model.apply(line, equal), rtol=1e-12)


def test_ratios_are_those_of_the_normal_distributions():
    """Where the model is true, and no bound is reached, llr is the logarithm of the densities' ratio."""
    rng = np.random.default_rng(0)
    is_target = rng.random(400_000) < 0.5
    q = rng.uniform(-1, 1, (400_000, 1, 2))
    x = q[:, 0].mean(axis=1)
    scores = rng.standard_normal(400_000) + np.where(is_target, 2 + 0.3 * x, -0.1 * x)
    model = fit(scores, q, is_target)
    true = ((scores + 0.1 * x) ** 2 - (scores - 2 - 0.3 * x) ** 2) / 2
    found = model.apply(scores, q)
    near = np.abs(true) < 4
    np.testing.assert_allclose(found[near], true[near], atol=0.1)


@pytest.mark.parametrize(("lift", "of_all"), [(1.5, 0.0), (0.0, 3.0)])  # the second reaches the bound
def test_expected_eers_are_those_of_draws_from_the_model(lift, of_all):
    scores, q, is_target, _ = pieces(5, cut=False, lift=lift)
    scores += of_all * q[:, 0].mean(axis=1)
    model = fit(scores, q[:, :1], is_target)
    rng = np.random.default_rng(0)
    many = np.tile(q[:, :1], (40, 1, 1))
    target, nontarget = model._means(many)
    kind = np.repeat([True, False], len(many))
    drawn = np.concatenate([target, nontarget]) + model.deviation * rng.standard_normal(2 * len(many))
    found = eer(drawn, kind), eer(model.apply(drawn, np.tile(many, (2, 1, 1))), kind)
    np.testing.assert_allclose(model.expected_eers(q[:, :1]), found, atol=0.003)
    assert found[1] < found[0] - 0.003


def test_a_change_that_calibration_cannot_explain_is_told():
    scores, q, is_target, _ = pieces(6, cut=True)
    model = fit(scores, q, is_target)
    invented = regression(scores, q, is_target)(scores, q)
    check = check_eer(model, scores, invented, q, is_target)
    assert not check.is_sound
    assert [note.split()[0] for note in check.notes()] == ["EER", "durations"]
    assert check.durations == 0
    assert not EerCheck(before=0.1, after=0.2, allowed=0.05, durations=0.5).is_sound  # worse is no better
    only = fit(scores, alone(scores), is_target)
    check = check_eer(only, scores, only.apply(scores, q), q, is_target)
    assert check.is_sound
    assert check.before == pytest.approx(check.after, abs=1e-12)


def test_the_change_that_is_allowed_by_hand():
    """Twice what the model expects, and twice the standard error of the mean of two rates of 10 %."""
    scores, q, is_target, _ = pieces(5, cut=False, lift=1.5)
    model = fit(scores, q[:, :1], is_target)
    kind = np.arange(1000) < 100
    tenth = np.where(kind, np.arange(1000) % 10 > 0, np.arange(1000) % 10 == 0).astype(float)
    before, after = model.expected_eers(q[:1000, :1])
    check = check_eer(model, tenth, tenth, q[:1000], kind)
    assert check.before == check.after == pytest.approx(0.1)
    assert check.allowed == pytest.approx(2 * abs(after - before) + np.sqrt(0.09 * (1 / 100 + 1 / 900)))
    assert abs(after - before) > 0.003
    # Of 10 % and 20 % the larger rate, which is the less certain one, whichever comes first.
    fifth = np.where(kind, np.arange(1000) % 5 > 0, np.arange(1000) % 5 == 0).astype(float)
    for values in ((tenth, fifth), (fifth, tenth)):
        allowed = check_eer(model, *values, q[:1000], kind).allowed
        assert allowed == pytest.approx(2 * abs(after - before) + np.sqrt(0.16 * (1 / 100 + 1 / 900)))


def test_measures_are_the_same_whichever_side_comes_first():
    rng = np.random.default_rng(0)
    duration, measures = rng.uniform(1, 40, (9, 2)), rng.uniform(1, 2, (9, 4))
    q = quality(duration, measures)
    assert q.shape == (9, 3, 2)
    np.testing.assert_array_equal(q[:, :, ::-1], quality(duration[:, ::-1], measures[:, [1, 0, 3, 2]]))
    np.testing.assert_allclose(q[:, 1], np.log(measures[:, :2]))
    np.testing.assert_array_equal(q[:, 2], measures[:, 2:])
    assert q[:, 0].max() <= np.log(20)
    assert quality(duration, None).shape == (9, 1, 2)


def test_speakers_whom_measures_only_name_leave_the_score_alone():
    scores, q, is_target, speakers = pieces(7, num_speakers=12, cut=True)
    scores += 0.5 * np.random.default_rng(0).standard_normal(12)[speakers.enrolment]
    choice = choose(scores, q, is_target, speakers)
    assert set(choice.cllr) == {0, 1, 3}
    assert choice.num_measures == 0


@pytest.mark.parametrize(
    ("falls", "chosen"),
    [
        # Of Cllr by durations, and by all measures, in each of 5 folds.
        (([0.03, 0.02, -0.01, -0.01, -0.01], [0.0] * 5), 0),  # 0.004 in the mean, 0.0087 its standard error
        (([0.03, 0.02, 0.00, 0.00, -0.01], [0.0] * 5), 1),  # 0.008 and 0.0073
        (([0.03, 0.03, 0.03, 0.03, 0.03], [0.05, 0.01, 0.05, 0.01, 0.03]), 1),  # no more than durations alone
        (([0.03, 0.03, 0.03, 0.03, 0.03], [0.05, 0.04, 0.05, 0.04, 0.05]), 3),
        (([-0.03, -0.03, -0.03, -0.03, -0.03], [0.05, 0.04, 0.05, 0.04, 0.05]), 3),
    ],
)
def test_measures_must_help_by_more_than_a_standard_error(monkeypatch, falls, chosen):
    costs = iter([0.5 - fall for fold in zip([0.0] * 5, *falls, strict=True) for fall in fold])
    monkeypatch.setattr(calibration_fit, "cllr", lambda *_: next(costs))
    choice = choose(*pieces(10, num_speakers=20, cut=False))
    assert choice.num_measures == chosen
    assert choice.cllr == pytest.approx({0: 0.5, 1: 0.5 - np.mean(falls[0]), 3: 0.5 - np.mean(falls[1])})


def test_notes_stand_where_something_is_wrong():
    assert EerCheck(0.1, 0.12, 0.02001, 0.25).notes() == []
    assert len(EerCheck(0.1, 0.12, 0.0199, 0.25).notes()) == 1
    assert len(EerCheck(0.1, 0.12, 0.0199, 0.249).notes()) == 2


def test_too_few_speakers_to_divide_leave_the_score_alone():
    speakers = TrialSpeakers(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32), 2)
    for labels in ([True, False, True], [True, True, True]):
        choice = choose(np.array([1.0, 0, 1]), np.ones((3, 1, 2)), np.array(labels), speakers)
        assert choice.num_measures == 0
        assert list(choice.cllr) == [0]


def test_separable_scores_have_finite_weights():
    scores = np.array([-2.0, -1, 1, 2])
    slope, _ = fit(scores, alone(scores), scores > 0).base
    assert 0 < slope < 100


def test_a_constant_measure_changes_nothing():
    scores, is_target = normal_scores(200)
    q = np.full((200, 3, 2), 1.7)
    np.testing.assert_allclose(
        fit(scores, q, is_target).apply(scores, q), fit(scores, alone(scores), is_target).apply(scores, q), atol=1e-4
    )


def test_measures_that_the_model_needs_must_be_there():
    scores, q, is_target, _ = pieces(8, num_speakers=20, cut=False)
    with pytest.raises(ValueError, match="1 quality measures, expected 3"):
        fit(scores, q, is_target).apply(scores, q[:, :1])


def test_scores_that_only_quality_explains_are_refused():
    """Targets score higher because they are longer; of equal length they score lower."""
    scores, q, is_target, _ = pieces(11, num_speakers=20, cut=False, distance=-1.0)
    q[:, 0] += is_target[:, None]
    scores += 3 * q[:, 0].mean(axis=1)
    fit(scores, alone(scores), is_target)
    with pytest.raises(CalibrationError, match=r"at the mean quality, those of non-targets .* expected the first"):
        fit(scores, q, is_target)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2], [True, True], "trials of one kind only"),
        ([1.0, np.inf], [True, False], "not finite"),
        ([1.0, 2, 1, 2], [True, False, True, False], "weight -.* of the score, expected more than 0"),
    ],
)
def test_refuses_lists_that_teach_nothing(scores, labels, message):
    scores = np.array(scores)
    with pytest.raises(RecipeError, match=message):
        fit(scores, alone(scores), np.array(labels))
