"""Cllr, minCllr and actDCF from their definitions."""

import numpy as np
import pytest

from wespeaker_qm.evaluate.log_likelihood import act_dcf, bayes_threshold, cllr, cllr_costs, min_cllr
from wespeaker_qm.evaluate.operating_points import convex_hull, min_dcf, roc_steps


def pool_adjacent_violators(labels):
    """Posterior of "target" that rises with the score, by the textbook's loop."""
    blocks = []
    for label in labels:
        blocks.append([label, 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    return np.concatenate([np.full(count, total / count) for total, count in blocks])


def test_min_cllr_is_cllr_after_the_best_monotonic_recalibration(simulate):
    _, is_target, scores = simulate(num_targets=80, num_nontargets=120, distance=1.5)
    order = np.argsort(scores)
    posterior = pool_adjacent_violators(is_target[order].astype(int))
    with np.errstate(divide="ignore"):
        ratios = np.log(posterior) - np.log1p(-posterior) - np.log(80 / 120)
    expected = cllr(np.clip(ratios, -1e3, 1e3), is_target[order])
    assert min_cllr(convex_hull(roc_steps(scores, is_target))) == pytest.approx(expected, rel=1e-12)
    assert expected <= cllr(scores, is_target)


def test_true_ratios_are_calibrated(simulate):
    """Normal scores of deviation 1 and distance d: the log-likelihood ratio is d s - d^2 / 2."""
    _, is_target, scores = simulate(num_targets=60000, num_nontargets=60000, effect=0, distance=2)
    ratios = 2 * scores - 2
    roc = roc_steps(ratios, is_target)
    assert cllr(ratios, is_target) == pytest.approx(min_cllr(convex_hull(roc)), abs=0.003)
    assert act_dcf(roc, 0.1) == pytest.approx(min_dcf(roc, 0.1).cost, abs=0.01)
    assert cllr(3 * ratios, is_target) > 1.2 * cllr(ratios, is_target)


@pytest.mark.parametrize("p_target", [0.5, 0.1, 0.01])
def test_act_dcf_decides_at_the_bayes_threshold(p_target, simulate):
    _, is_target, scores = simulate(digits=1)
    accepted = scores >= np.log((1 - p_target) / p_target)
    cost = p_target * (~accepted[is_target]).mean() + (1 - p_target) * accepted[~is_target].mean()
    expected = cost / min(p_target, 1 - p_target)
    assert act_dcf(roc_steps(scores, is_target), p_target) == pytest.approx(expected)


@pytest.mark.parametrize(("p_target", "c_miss", "c_fa"), [(0.01, 10.0, 1.0), (0.3, 1.0, 4.0), (0.9, 3.0, 2.0)])
def test_costs_of_misses_and_false_accepts_count_as_given(p_target, c_miss, c_fa, simulate):
    _, is_target, scores = simulate(digits=1)

    def cost(threshold):
        miss, false_accept = (scores[is_target] < threshold).mean(), (scores[~is_target] >= threshold).mean()
        return c_miss * p_target * miss + c_fa * (1 - p_target) * false_accept

    least = min(cost(-np.inf), cost(np.inf))
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    # A ratio of the posterior odds at which both errors cost the same.
    assert c_miss * p_target * np.exp(threshold) == pytest.approx(c_fa * (1 - p_target))
    roc = roc_steps(scores, is_target)
    assert act_dcf(roc, p_target, c_miss, c_fa) == pytest.approx(cost(threshold) / least)
    best = min(map(cost, [*np.unique(scores), np.inf])) / least
    found = min_dcf(roc, p_target, c_miss, c_fa)
    assert found.cost == pytest.approx(best)
    assert cost(found.threshold) / least == pytest.approx(best)


def test_decisions_beyond_all_scores_accept_all_or_none():
    roc = roc_steps([0.0, 1.0, 0.5, -1.0], [True, True, False, False])
    assert act_dcf(roc, 1e-6) == 1  # threshold 13.8: nothing accepted, every target missed
    assert act_dcf(roc, 1 - 1e-6) == pytest.approx(1)  # threshold -13.8: all accepted


def test_costs_in_bits_of_single_trials():
    """log2(1 + odds against the truth): even odds cost 1 bit, 3 to 1 against cost 2, 1 to 3 against log2(4/3)."""
    scores, is_target = np.log([1, 1, 1 / 3, 3, 3, 1 / 3]), np.array([True, False, True, False, True, False])
    np.testing.assert_allclose(cllr_costs(scores, is_target), [1, 1, 2, 2, np.log2(4 / 3), np.log2(4 / 3)])
    assert cllr(scores[:3], is_target[:3]) == pytest.approx((1.5 + 1) / 2)
