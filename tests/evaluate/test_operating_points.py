"""Operating points against the definition (every threshold tried) and against WeSpeaker's formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import det_curve

from wespeaker_qm.evaluate.operating_points import (
    FARS,
    equal_error_rate,
    far_at_tar,
    far_name,
    is_measurable,
    min_dcf,
    number_name,
    roc_steps,
    tar_at_far,
    trials_to_measure,
)
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.utils.errors import RecipeError

ORACLES = Path(__file__).parents[1] / "oracles_data"


def rates_by_definition(scores, is_target, threshold):
    """(FAR, TAR, false accepts) of one threshold, by looking at every trial."""
    false_accepts = sum(1 for s, t in zip(scores, is_target, strict=True) if s >= threshold and not t)
    true_accepts = sum(1 for s, t in zip(scores, is_target, strict=True) if s >= threshold and t)
    num_targets = sum(is_target)
    return false_accepts / (len(scores) - num_targets), true_accepts / num_targets, false_accepts


def all_thresholds(scores):
    return [*sorted(set(scores)), np.inf]


def wespeaker_metrics(scores, is_target, p_target, c_miss=1, c_fa=1):
    """EER and minDCF as WeSpeaker's compute_metrics defines them: one operating point a trial, ties ignored."""
    order = np.argsort(scores, kind="stable")
    labels = np.asarray(is_target)[order]
    fnr = np.cumsum(labels) / labels.sum()
    fpr = 1 - np.cumsum(~labels) / (~labels).sum()
    above = np.flatnonzero(fnr - fpr >= 0)[0]
    below = np.flatnonzero(fnr - fpr < 0)[-1]
    weight = (fnr[above] - fpr[above]) / (fpr[below] - fpr[above] - (fnr[below] - fnr[above]))
    eer = fnr[above] + weight * (fnr[below] - fnr[above])
    cost = np.min(c_miss * fnr * p_target + c_fa * fpr * (1 - p_target))
    return eer, cost / min(c_miss * p_target, c_fa * (1 - p_target))


def simulate(num_trials, seed, decimals=None, separation=2.0):
    rng = np.random.default_rng(seed)
    is_target = rng.random(num_trials) < 0.2
    is_target[:2] = True, False
    scores = rng.standard_normal(num_trials) + separation * is_target
    return (scores if decimals is None else scores.round(decimals)), is_target


@st.composite
def scored_trials(draw):
    """Few distinct scores, so that most are tied; both kinds of trial."""
    num_trials = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-4, 4).map(lambda n: n / 4), min_size=num_trials, max_size=num_trials))
    labels = draw(st.lists(st.booleans(), min_size=num_trials, max_size=num_trials))
    return scores, [True, False, *labels[2:]]


@given(st.floats(1e-300, 1, exclude_max=True))
def test_a_name_stands_for_one_number(number):
    assert float(far_name(number)) == number
    assert float(number_name(number)) == number


@pytest.mark.parametrize("number", [0.9, 0.95, 0.99, 0.01, 0.001, 0.05, 0.0001, 1e-5, 1.0, 32.0, 1.75, np.float64(0.1)])
def test_names_that_people_know_stay(number):
    assert number_name(number) == f"{number:g}"


@given(st.floats(1e-6, 1, exclude_max=True))
def test_trials_to_measure_is_the_fewest_that_do(far):
    count = trials_to_measure(far)
    assert is_measurable(far, count)
    assert count == 1 or not is_measurable(far, count - 1)


@given(scored_trials())
def test_every_step_is_the_definition_at_its_threshold(trials):
    scores, is_target = trials
    roc = roc_steps(scores, is_target)
    assert roc.threshold[1:].tolist() == sorted(set(scores), reverse=True)
    assert roc.threshold[0] > max(scores)
    for threshold, far, tar, false_accepts in zip(roc.threshold, roc.far, roc.tar, roc.false_accepts, strict=True):
        assert (far, tar, false_accepts) == rates_by_definition(scores, is_target, threshold)
    np.testing.assert_allclose(roc.frr, 1 - roc.tar, atol=1e-15)


@given(scored_trials(), st.sampled_from([0.5, 0.3, 0.1, 0.05, 1.0]))
def test_tar_at_far_is_the_best_of_all_thresholds(trials, far):
    scores, is_target = trials
    point = tar_at_far(roc_steps(scores, is_target), far)
    allowed = [rates_by_definition(scores, is_target, threshold) for threshold in all_thresholds(scores)]
    allowed = [rates for rates in allowed if rates[0] <= far]
    if len(scores) - sum(is_target) < 1 / far:
        assert point is None
        return
    assert point.tar == max(tar for _, tar, _ in allowed)
    assert point.false_accepts == min(count for _, tar, count in allowed if tar == point.tar)
    assert (point.far, point.tar, point.false_accepts) == rates_by_definition(scores, is_target, point.threshold)


@given(scored_trials(), st.sampled_from([0.01, 0.001, 0.5, 0.9]), st.sampled_from([1, 10]))
def test_min_dcf_is_the_cheapest_of_all_thresholds(trials, p_target, c_miss):
    scores, is_target = trials
    costs = []
    for threshold in all_thresholds(scores):
        far, tar, _ = rates_by_definition(scores, is_target, threshold)
        costs.append(c_miss * p_target * (1 - tar) + (1 - p_target) * far)
    result = min_dcf(roc_steps(scores, is_target), p_target, c_miss=c_miss)
    assert result.cost == pytest.approx(min(costs) / min(c_miss * p_target, 1 - p_target), abs=1e-12)
    assert 0 <= result.cost <= 1


@given(scored_trials())
def test_eer_lies_between_the_two_steps_around_the_crossing(trials):
    scores, is_target = trials
    rates = [rates_by_definition(scores, is_target, threshold) for threshold in all_thresholds(scores)]
    lenient = [(far, 1 - tar) for far, tar, _ in rates if far >= 1 - tar]
    strict = [(far, 1 - tar) for far, tar, _ in rates if far <= 1 - tar]
    eer = equal_error_rate(roc_steps(scores, is_target)).rate
    assert max(far for far, _ in strict) - 1e-12 <= eer <= min(far for far, _ in lenient) + 1e-12
    assert max(frr for _, frr in lenient) - 1e-12 <= eer <= min(frr for _, frr in strict) + 1e-12


@given(scored_trials(), st.randoms(use_true_random=False))
def test_order_of_trials_and_increasing_maps_change_nothing(trials, random):
    scores, is_target = trials
    shuffled = list(zip(scores, is_target, strict=True))
    random.shuffle(shuffled)
    roc = roc_steps(scores, is_target)
    other = roc_steps([np.exp(score) for score, _ in shuffled], [label for _, label in shuffled])
    assert equal_error_rate(roc).rate == equal_error_rate(other).rate
    assert min_dcf(roc, 0.01).cost == min_dcf(other, 0.01).cost
    np.testing.assert_array_equal(roc.true_accepts, other.true_accepts)
    np.testing.assert_array_equal(roc.false_accepts, other.false_accepts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_trials", [50, 3000])
def test_without_ties_equal_to_wespeaker(seed, num_trials):
    scores, is_target = simulate(num_trials, seed)
    roc = roc_steps(scores, is_target)
    for p_target in (0.01, 0.001, 0.05):
        eer, cost = wespeaker_metrics(scores, is_target, p_target)
        assert equal_error_rate(roc).rate == pytest.approx(eer, abs=1e-12)
        assert min_dcf(roc, p_target).cost == pytest.approx(cost, abs=1e-12)


def test_wespeaker_oracle_with_its_ties_broken():
    """trials.score has two decimals and hence ties, which WeSpeaker orders by an unstable sort.

    So its figures are those of one arbitrary order within the ties: ours, which need no order, lie between the best
    (targets first) and the worst (targets last), and agree with WeSpeaker's formulas once the ties are broken.
    """
    printed = json.loads((ORACLES / "metrics.json").read_text())
    trials, scores, _ = read_scores(ORACLES / "trials.score")
    nudge = np.random.default_rng(0).permutation(len(scores)) * 1e-9
    broken = scores + nudge
    assert len(set(broken)) == len(broken) > len(set(scores))

    roc = roc_steps(broken, trials.is_target)
    for key, cost in printed["min_dcf"].items():
        p_target, c_miss, c_fa = json.loads(key.replace("(", "[").replace(")", "]"))
        reference = wespeaker_metrics(broken, trials.is_target, p_target, c_miss, c_fa)
        assert equal_error_rate(roc).rate == pytest.approx(reference[0], abs=1e-12)
        assert min_dcf(roc, p_target, c_miss, c_fa).cost == pytest.approx(reference[1], abs=1e-12)

        tied = min_dcf(roc_steps(scores, trials.is_target), p_target, c_miss, c_fa).cost
        best = min_dcf(roc_steps(scores + 1e-6 * trials.is_target, trials.is_target), p_target, c_miss, c_fa).cost
        worst = min_dcf(roc_steps(scores - 1e-6 * trials.is_target, trials.is_target), p_target, c_miss, c_fa).cost
        assert best <= cost <= worst + 1e-12
        assert best <= tied <= worst
    eer = equal_error_rate(roc_steps(scores, trials.is_target)).rate
    best = equal_error_rate(roc_steps(scores + 1e-6 * trials.is_target, trials.is_target)).rate
    worst = equal_error_rate(roc_steps(scores - 1e-6 * trials.is_target, trials.is_target)).rate
    assert best <= eer <= worst
    assert best <= printed["eer"] <= worst
    # the tie at the crossing is worth less than the digits that are printed
    assert eer == pytest.approx(printed["eer"], abs=1e-3)


def test_perfect_and_useless_systems():
    perfect = roc_steps([3, 2, 1, 0], [True, True, False, False])
    assert equal_error_rate(perfect).rate == 0
    assert min_dcf(perfect, 0.01).cost == 0
    assert tar_at_far(perfect, 0.5).tar == 1
    assert tar_at_far(perfect, 0.5).false_accepts == 0
    assert tar_at_far(perfect, 0.5).threshold == 2
    wrong = roc_steps([0, 1, 2, 3], [True, True, False, False])
    assert equal_error_rate(wrong).rate == 1
    assert min_dcf(wrong, 0.01).cost == 1  # reject everything
    constant = roc_steps([1, 1, 1, 1], [True, True, False, False])
    assert equal_error_rate(constant).rate == 0.5
    assert tar_at_far(constant, 0.5).tar == 0
    assert tar_at_far(constant, 0.5).threshold > 1


def test_measurable_from_exactly_one_over_far_trials():
    for far in (*FARS, 1e-5, 1e-6):
        num_nontargets = round(1 / far)
        assert is_measurable(far, num_nontargets)
        assert not is_measurable(far, num_nontargets - 1)


def test_a_million_trials():
    scores, is_target = simulate(1_000_000, seed=1, decimals=4, separation=3.0)
    roc = roc_steps(scores, is_target)
    assert roc.num_targets + roc.num_nontargets == 1_000_000
    # two unit normals 3 apart cross at 1.5
    assert equal_error_rate(roc).rate == pytest.approx(0.0668, abs=1e-3)
    for far in FARS:
        point = tar_at_far(roc, far)
        assert point.false_accepts == np.sum((scores >= point.threshold) & ~is_target)


@pytest.mark.parametrize(
    ("scores", "is_target", "message"),
    [
        ([1.0, 2.0], [True, True], "2 target and 0 non-target"),
        ([1.0, 2.0], [False, False], "0 target and 2 non-target"),
        ([], [], "0 target and 0 non-target"),
        ([1.0, np.nan, np.inf], [True, False, False], "2 of 3 scores are not finite"),
        ([1.0], [True, False], "expected one of each a trial"),
    ],
)
def test_refuses(scores, is_target, message):
    with pytest.raises(RecipeError, match=message):
        roc_steps(scores, is_target)


@pytest.mark.parametrize("digits", [None, 1])
def test_operating_points_equal_scikit_learns(simulate, digits):
    """det_curve leaves out "reject everything" and what lies beyond the ends of the curve; what it has, we have."""
    _, is_target, scores = simulate(digits=digits)
    far, frr, threshold = det_curve(is_target, scores, drop_intermediate=False)
    roc = roc_steps(scores, is_target)
    ours = {point: (one, two) for point, one, two in zip(roc.threshold, roc.far, roc.frr, strict=True)}
    compared = 0
    for point, one, two in zip(threshold, far, frr, strict=True):
        if np.isfinite(point):
            assert ours[point] == pytest.approx((one, two), abs=1e-12)
            compared += 1
    assert compared > 10


def test_far_at_tar_is_the_inverse_of_tar_at_far(simulate):
    _, is_target, scores = simulate(digits=2)
    roc = roc_steps(scores, is_target)
    for tar in (0.5, 0.9, 0.99, 1.0):
        point = far_at_tar(roc, tar)
        accepted = scores >= point.threshold
        assert accepted[is_target].mean() >= tar
        assert point.far == accepted[~is_target].mean()
        higher = scores > point.threshold
        assert higher[is_target].mean() < tar
