"""How good scores are as log-likelihood ratios: Cllr, minCllr and actDCF.

A score s is read as ln p(both recordings | same speaker) - ln p(both | different speakers). Cllr, in bits, is what
these statements cost on average (Brümmer and du Preez 2006, eq. 12): 0 for an oracle, 1 for a system that says nothing,
without bound for one that is wrong and sure of it. minCllr is what remains after the best monotonic recalibration, so
it measures discrimination alone, and Cllr - minCllr the calibration.
"""

import math

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.operating_points import RocSteps


def cllr_costs(scores: NDArray[np.float64], is_target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) cost of each trial in bits: log2(1 + exp(-s)) for targets, log2(1 + exp(s)) for non-targets."""
    costs: NDArray[np.float64] = np.logaddexp(0.0, np.where(is_target, -scores, scores)) / math.log(2)
    return costs


def cllr(scores: NDArray[np.float64], is_target: NDArray[np.bool_]) -> float:
    """Cllr in bits of log-likelihood ratios ``scores`` (N,), natural logarithm; targets and non-targets weigh alike.

    >>> cllr(np.zeros(4), np.array([True, False, False, False]))
    1.0
    """
    costs = cllr_costs(scores, is_target)
    return float((costs[is_target].mean() + costs[~is_target].mean()) / 2)


def min_cllr(hull: RocSteps) -> float:
    """Cllr after the best monotonic recalibration, from the vertices of the convex hull.

    Each edge of the hull is a bin of scores; its log-likelihood ratio is the logarithm of the edge's slope.
    """
    targets = np.diff(hull.true_accepts) / hull.num_targets
    nontargets = np.diff(hull.false_accepts) / hull.num_nontargets
    mixed = (targets > 0) & (nontargets > 0)  # a bin of one kind is certain, and costs nothing
    t, n = targets[mixed], nontargets[mixed]
    return float((t * np.log2(1 + n / t) + n * np.log2(1 + t / n)).sum() / 2)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The threshold on log-likelihood ratios with the smallest expected cost, ln(c_fa (1 - p) / (c_miss p)).

    >>> round(bayes_threshold(0.01), 6)
    4.59512
    """
    return math.log(c_fa * (1 - p_target) / (c_miss * p_target))


def act_dcf(roc: RocSteps, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The normalised detection cost of deciding at :func:`bayes_threshold`: minDCF and the loss by miscalibration.

    Args:
        roc: operating points; thresholds are log-likelihood ratios.
        p_target: prior probability of a target, in (0, 1).
        c_miss: cost of a miss.
        c_fa: cost of a false accept.
    """
    # Accepted are scores >= the threshold; the thresholds of the points fall.
    point = int(np.searchsorted(-roc.threshold, -bayes_threshold(p_target, c_miss, c_fa), side="right")) - 1
    point = max(point, 0)
    cost = c_miss * p_target * roc.frr[point] + c_fa * (1 - p_target) * roc.far[point]
    return float(cost / min(c_miss * p_target, c_fa * (1 - p_target)))
