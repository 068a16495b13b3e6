"""Cllr, minCllr and actDCF from their definitions."""

import numpy as np
import pytest

from wespeaker_qm.evaluate.log_likelihood import act_dcf, cllr, min_cllr
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
