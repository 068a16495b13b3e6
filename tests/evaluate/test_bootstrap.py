"""Resampled figures against figures of lists in which trials really stand several times."""

import itertools

import numpy as np
import pytest

from wespeaker_qm.evaluate.bootstrap import SortedTrials, resample
from wespeaker_qm.evaluate.figure import Figure, Quantity
from wespeaker_qm.evaluate.figures import ACT_DCF, TAR_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.log_likelihood import act_dcf, cllr, min_cllr
from wespeaker_qm.evaluate.operating_points import (
    FARS,
    P_TARGETS,
    TARS,
    best_at_far,
    convex_hull,
    equal_error_rate,
    far_at_tar,
    min_dcf,
    roc_steps,
)
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.errors import RecipeError

WANTED = wanted_figures(is_llr=True)


def by_definition(scores, is_target):
    """Every figure from the curve of all trials, with no runs and no weights."""
    roc = roc_steps(scores, is_target)
    hull = convex_hull(roc)
    return [
        equal_error_rate(roc).rate,
        equal_error_rate(hull).rate,
        min_cllr(hull),
        *(min_dcf(roc, p_target).cost for p_target in P_TARGETS),
        *(best_at_far(roc, far).tar for far in FARS),
        *(best_at_far(roc, far).threshold for far in FARS),
        *(far_at_tar(roc, tar).far for tar in TARS),
        cllr(scores, is_target),
        *(act_dcf(roc, p_target) for p_target in P_TARGETS),
    ]


@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_figures_equal_those_of_repeated_trials(digits, seed, simulate):
    _, is_target, scores = simulate(seed=seed, digits=digits)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(np.int32)
    system = SortedTrials.of(scores, is_target, WANTED)
    curves = system.weighted(weights)
    found, roc = system.values(curves), curves.roc
    expected = by_definition(np.repeat(scores, weights), np.repeat(is_target, weights))
    # A threshold between the same two trials accepts the same ones: where weights are 0 the run's end stands for it.
    for figure, one, two in zip(WANTED, found, expected, strict=True):
        if figure.kind.quantity is not Quantity.THRESHOLD:
            assert one == pytest.approx(two, rel=1e-12, abs=1e-15), figure.name
    assert roc.num_targets == weights[is_target].sum()
    assert roc.num_nontargets == weights[~is_target].sum()


def test_estimates_equal_the_definition_thresholds_included(simulate):
    speakers, is_target, scores = simulate()
    (result,) = resample([SortedTrials.of(scores, is_target, WANTED)], speakers, num_resamples=2)
    expected = by_definition(scores, is_target)
    for figure, one, two in zip(WANTED, result.estimates, expected, strict=True):
        if (
            figure.kind.quantity is Quantity.THRESHOLD
        ):  # the end of a run: no trial between it and the exact one changes sides
            assert ((scores >= one) == (scores >= two))[~is_target].all(), figure.name
        else:
            assert one == pytest.approx(two, rel=1e-12, abs=1e-15), figure.name


def test_speakers_are_drawn_and_trials_weighted_by_both(simulate):
    speakers, is_target, scores = simulate(num_speakers=7, num_targets=40, num_nontargets=60)
    (result,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=5, seed=3)
    rng = np.random.default_rng((3, 0xB007))
    usable = 0
    while usable < 5:
        drawn = rng.multinomial(7, np.full(7, 1 / 7))
        weights = np.array(
            [
                drawn[one] if one == two else drawn[one] * drawn[two]
                for one, two in zip(speakers.enrolment, speakers.test, strict=True)
            ]
        )
        if weights[is_target].any() and weights[~is_target].any():
            repeated = np.repeat(scores, weights), np.repeat(is_target, weights)
            assert result.values[usable, 0] == pytest.approx(equal_error_rate(roc_steps(*repeated)).rate, rel=1e-12)
            usable += 1


def test_systems_share_their_resamples_and_longer_series_begin_alike(simulate):
    speakers, is_target, scores = simulate()
    system = SortedTrials.of(scores, is_target)
    one, two = resample([system, system], speakers, num_resamples=6, seed=1)
    (longer,) = resample([system], speakers, num_resamples=9, seed=1)
    (other,) = resample([system], speakers, num_resamples=6, seed=2)
    assert np.array_equal(one.values, two.values)
    assert np.array_equal(one.values, longer.values[:6])
    assert not np.array_equal(one.values, other.values)


def test_miss_rates_on_a_grid(simulate):
    speakers, is_target, scores = simulate()
    grid = np.array([1e-3, 1e-2, 0.1, 1.0])
    (result,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=4, far_grid=grid)
    assert (np.diff(result.frr, axis=1) <= 0).all()
    assert (result.frr[:, -1] == 0).all()
    np.testing.assert_allclose(1 - result.frr[:, 2], result.column(Figure(TAR_AT_FAR, 0.1)))


def test_a_convex_hull_is_the_upper_hull_of_the_curve(simulate):
    _, is_target, scores = simulate(num_targets=30, num_nontargets=40, digits=1)
    roc = roc_steps(scores, is_target)
    points = set(zip(roc.far.tolist(), roc.tar.tolist(), strict=True))
    vertices = convex_hull(roc)
    for far, tar in points:  # on or below the hull
        assert np.interp(far, vertices.far, vertices.tar) >= tar - 1e-12
    slopes = np.diff(vertices.tar) / np.maximum(np.diff(vertices.far), 1e-12)
    assert (np.diff(slopes) < 0).all()
    assert set(zip(vertices.far.tolist(), vertices.tar.tolist(), strict=True)) <= points


def test_useless_draws_are_passed_over_and_hopeless_lists_refused():
    """Non-target trials between two of the speakers only: every second draw lacks them."""
    pairs = [(0, 0), (1, 1), (0, 1)] * 4 + [(number, number) for number in range(2, 6)]
    speakers = TrialSpeakers(*np.array(pairs, np.int32).T, 6)
    is_target = speakers.enrolment == speakers.test
    scores = np.arange(len(pairs), dtype=float)
    (result,) = resample([SortedTrials.of(scores, is_target)], speakers, num_resamples=20)
    assert np.isfinite(result.values).all()
    many = TrialSpeakers(*np.array([*itertools.combinations(range(3), 2), (3, 3)], np.int32).T, 400)
    with pytest.raises(RecipeError, match="most resamples have no target or no non-target trials"):
        resample([SortedTrials.of(np.arange(4.0), many.enrolment == many.test)], many, num_resamples=500)
    with pytest.raises(RecipeError, match="at least 2"):
        resample([SortedTrials.of(scores, is_target)], speakers._replace(num_speakers=1), num_resamples=2)


def test_runs_are_neighbours_of_one_kind_and_end_at_their_lowest_score():
    """Of six scores two are tied between the kinds (0.5), which join no neighbour."""
    scores = np.array([0.7, 0.9, 0.5, 0.8, 0.5, 0.4, 0.3, 0.1])
    is_target = np.array([False, True, True, True, False, False, False, True])
    trials = SortedTrials.of(scores, is_target)
    assert trials.order.tolist() == [1, 3, 0, 2, 4, 5, 6, 7]
    assert trials.run_start.tolist() == [0, 2, 3, 5, 7]
    assert trials.run_threshold.tolist() == [np.nextafter(0.9, 1), 0.8, 0.7, 0.5, 0.3, 0.1]
    roc = trials.weighted(np.array([1, 2, 3, 4, 0, 5, 6, 7], np.int32)).roc
    assert roc.true_accepts.tolist() == [0, 6, 6, 9, 9, 16]
    assert roc.false_accepts.tolist() == [0, 0, 1, 1, 12, 12]


@pytest.mark.parametrize("p_target", [0.5, 0.25, 0.1, 0.9])
def test_decisions_fall_at_the_end_of_a_run(p_target):
    """Of log-likelihood ratios a run is cut where the Bayes threshold cuts it: scores at it are accepted."""
    threshold = np.log((1 - p_target) / p_target)
    scores = threshold + np.array([2.0, 1.0, 0.0, -1.0, -2.0, 3.0, -3.0])
    is_target = np.array([True] * 5 + [False] * 2)
    trials = SortedTrials.of(scores, is_target, wanted_figures(is_llr=True, p_targets=(p_target,)))
    assert trials.run_threshold[1:].tolist() == scores[[5, 2, 4, 6]].tolist()
    values = trials.values(trials.weighted(np.array([1, 1, 1, 1, 2, 1, 1], np.int32)))
    misses, false_accepts = 3 / 6, 1 / 2
    cost = p_target * misses + (1 - p_target) * false_accepts
    assert values[trials.wanted.index(Figure(ACT_DCF, p_target))] == pytest.approx(cost / min(p_target, 1 - p_target))
