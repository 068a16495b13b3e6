"""How much each trial moves a figure: what influence functions are made of.

phi_i is the derivative of a figure with respect to the weight of trial i, all weights being 1 / number of trials of the
kind. With t the threshold at which the figure is read, and s = dTAR/dFAR the slope of the ROC curve there::

    tau_i = (1[score_i >= t] - TAR) / targets        for targets, else 0
    nu_i  = (1[score_i >= t] - FAR) / non-targets    for non-targets, else 0

    TAR@FAR        tau - s nu              FAR@TAR     nu - tau / s
    threshold@FAR  nu (up to a factor)     EER         (s nu - tau) / (1 + s)
    DCF            (-p tau + (1 - p) nu) / min(p, 1 - p)
    Cllr           (cost - mean cost of its kind) / (2 trials of its kind)

Here are tau, nu, s and the costs; :mod:`wespeaker_qm.evaluate.figures` puts them together. The sum of phi over the
trials of a speaker tells how a figure depends on that speaker.
"""

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.log_likelihood import cllr_costs
from wespeaker_qm.evaluate.operating_points import RocSteps


class Influence:
    """The parts of the influence functions of one system's figures.

    Args:
        scores: (N,).
        is_target: (N,).
        hull: vertices of the convex hull of the ROC curve.
    """

    def __init__(self, scores: NDArray[np.float64], is_target: NDArray[np.bool_], hull: RocSteps) -> None:
        self._scores = scores
        self._is_target = is_target
        self._hull = hull

    def tau(self, threshold: float) -> NDArray[np.float64]:
        """(N,) of the true-accept rate at the threshold."""
        return self._accepted(threshold, self._is_target)

    def nu(self, threshold: float) -> NDArray[np.float64]:
        """(N,) of the false-accept rate at the threshold."""
        return self._accepted(threshold, ~self._is_target)

    def slope(self, threshold: float) -> float:
        """dTAR/dFAR at the threshold: that of the hull's edge, between the steepest and the flattest one that rise."""
        targets = np.diff(self._hull.true_accepts) / self._hull.num_targets
        nontargets = np.diff(self._hull.false_accepts) / self._hull.num_nontargets
        edge = int(np.searchsorted(-self._hull.threshold, -threshold, side="left")) - 1
        edge = min(max(edge, 0), len(targets) - 1)
        rising = np.flatnonzero((targets > 0) & (nontargets > 0))
        if not len(rising):
            return 1.0
        edge = int(rising[np.argmin(np.abs(rising - edge))])
        return float(targets[edge] / nontargets[edge])

    def cllr(self) -> NDArray[np.float64]:
        """(N,) of Cllr, the scores being log-likelihood ratios."""
        return self._centred(cllr_costs(self._scores, self._is_target))

    def min_cllr(self) -> NDArray[np.float64]:
        """(N,) of Cllr after the best monotonic recalibration."""
        return self._centred(cllr_costs(recalibrated(self._hull, self._scores), self._is_target))

    def _accepted(self, threshold: float, kind: NDArray[np.bool_]) -> NDArray[np.float64]:
        accepted = (self._scores >= threshold).astype(np.float64)
        return np.where(kind, (accepted - accepted[kind].mean()) / kind.sum(), 0.0)

    def _centred(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        tau, nu = (
            np.where(kind, (costs - costs[kind].mean()) / (2 * kind.sum()), 0.0)
            for kind in (self._is_target, ~self._is_target)
        )
        return tau + nu


def recalibrated(hull: RocSteps, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) log-likelihood ratios by the best monotonic recalibration: the logarithm of the slope of a score's edge."""
    targets = np.diff(hull.true_accepts) / hull.num_targets
    nontargets = np.diff(hull.false_accepts) / hull.num_nontargets
    with np.errstate(divide="ignore"):
        ratio = np.clip(np.log(targets) - np.log(nontargets), -30.0, 30.0)
    edge = np.searchsorted(-hull.threshold, -scores, side="left") - 1
    found: NDArray[np.float64] = ratio[np.clip(edge, 0, len(ratio) - 1)]
    return found
