"""Resampled figures against figures of lists in which trials really stand several times."""

import itertools

import numpy as np
import pytest

from wespeaker_qm.evaluate.bootstrap import FigureSet, SortedTrials, figures, resample
from wespeaker_qm.evaluate.log_likelihood import act_dcf, cllr, min_cllr
from wespeaker_qm.evaluate.operating_points import (
    best_at_far,
    convex_hull,
    equal_error_rate,
    far_at_tar,
    min_dcf,
    roc_steps,
)
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers
from wespeaker_qm.utils.errors import RecipeError

WANTED = FigureSet(is_llr=True)


def by_definition(scores, is_target, wanted=WANTED):
    """Every figure from the curve of all trials, with no runs and no weights."""
    roc = roc_steps(scores, is_target)
    hull = convex_hull(roc)
    return [
        equal_error_rate(roc).rate,
        equal_error_rate(hull).rate,
        min_cllr(hull),
        *(min_dcf(roc, p_target).cost for p_target in wanted.p_targets),
        *(best_at_far(roc, far).tar for far in wanted.fars),
        *(best_at_far(roc, far).threshold for far in wanted.fars),
        *(far_at_tar(roc, tar).far for tar in wanted.tars),
        cllr(scores, is_target),
        *(act_dcf(roc, p_target) for p_target in wanted.p_targets),
    ]


@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_figures_equal_those_of_repeated_trials(digits, seed, simulate):
    _, is_target, scores = simulate(seed=seed, digits=digits)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(np.int32)
    found, roc = figures(SortedTrials.of(scores, is_target, WANTED), weights)
    expected = by_definition(np.repeat(scores, weights), np.repeat(is_target, weights))
    # A threshold between the same two trials accepts the same ones: where weights are 0 the run's end stands for it.
    names = WANTED.names()
    for name, one, two in zip(names, found, expected, strict=True):
        if not name.startswith("threshold"):
            assert one == pytest.approx(two, rel=1e-12, abs=1e-15), name
    assert roc.num_targets == weights[is_target].sum()
    assert roc.num_nontargets == weights[~is_target].sum()


def test_estimates_equal_the_definition_thresholds_included(simulate):
    speakers, is_target, scores = simulate()
    (result,) = resample([SortedTrials.of(scores, is_target, WANTED)], speakers, num_resamples=2)
    expected = by_definition(scores, is_target)
    for name, one, two in zip(result.names, result.estimates, expected, strict=True):
        if name.startswith("threshold"):  # the end of a run: no trial between it and the exact one changes sides
            assert ((scores >= one) == (scores >= two))[~is_target].all(), name
        else:
            assert one == pytest.approx(two, rel=1e-12, abs=1e-15), name


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
    np.testing.assert_allclose(1 - result.frr[:, 2], result.column("TAR@FAR 1e-1"))


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
