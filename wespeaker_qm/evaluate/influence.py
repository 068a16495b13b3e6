"""How much each trial moves a figure: influence functions.

phi_i is the derivative of a figure with respect to the weight of trial i, all weights being 1 / number of trials of the
kind. With t the threshold at which the figure is read, and s = dTAR/dFAR the slope of the ROC curve there::

    tau_i = (1[score_i >= t] - TAR) / targets        for targets, else 0
    nu_i  = (1[score_i >= t] - FAR) / non-targets    for non-targets, else 0

    TAR@FAR        tau - s nu              FAR@TAR     nu - tau / s
    threshold@FAR  nu (up to a factor)     EER         (s nu - tau) / (1 + s)
    DCF            (-p tau + (1 - p) nu) / min(p, 1 - p)
    Cllr           (cost - mean cost of its kind) / (2 trials of its kind)

The sum of phi over the trials of a speaker tells how a figure depends on that speaker.
"""

import math

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.bootstrap import SortedTrials
from wespeaker_qm.evaluate.log_likelihood import bayes_threshold, cllr_costs
from wespeaker_qm.evaluate.operating_points import (
    RocSteps,
    best_at_far,
    convex_hull,
    equal_error_rate,
    far_at_tar,
    min_dcf,
)


class Influence:
    """The influence functions of one system's figures."""

    def __init__(self, system: SortedTrials) -> None:
        self._scores = system.scores
        self._is_target = system.is_target
        self._is_llr = system.wanted.is_llr
        self._roc = system.curve(np.ones(len(system.scores), np.int32))
        self._hull = convex_hull(self._roc)

    def of(self, name: str) -> NDArray[np.float64]:
        """(N,) influence of each trial, in the order of the list, on the figure ``name``."""
        kind, _, argument = name.partition(" ")
        rate = float(argument) if argument not in ("", "hull") else math.nan
        if kind == "EER":
            threshold = equal_error_rate(self._roc).threshold
            slope = self._slope(threshold)
            tau, nu = self._accepted(threshold)
            return (slope * nu - tau) / (1 + slope)
        if kind in ("TAR@FAR", "threshold@FAR"):
            threshold = best_at_far(self._roc, rate).threshold
            tau, nu = self._accepted(threshold)
            return tau - self._slope(threshold) * nu if kind == "TAR@FAR" else nu
        if kind == "FAR@TAR":
            threshold = far_at_tar(self._roc, rate).threshold
            tau, nu = self._accepted(threshold)
            return nu - tau / max(self._slope(threshold), 1e-12)
        if kind in ("minDCF", "actDCF"):
            threshold = min_dcf(self._hull, rate).threshold if kind == "minDCF" else bayes_threshold(rate)
            tau, nu = self._accepted(threshold)
            return ((1 - rate) * nu - rate * tau) / min(rate, 1 - rate)
        if kind == "Cllr":
            return self._centred(cllr_costs(self._scores, self._is_target))
        if kind == "minCllr":
            return self._centred(cllr_costs(_recalibrated(self._hull, self._scores), self._is_target))
        raise ValueError(f"no influence function for {name!r}")

    def _accepted(self, threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tau and nu."""
        accepted = (self._scores >= threshold).astype(np.float64)
        parts = []
        for kind in (self._is_target, ~self._is_target):
            parts.append(np.where(kind, (accepted - accepted[kind].mean()) / kind.sum(), 0.0))
        return parts[0], parts[1]

    def _centred(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        tau, nu = (
            np.where(kind, (costs - costs[kind].mean()) / (2 * kind.sum()), 0.0)
            for kind in (self._is_target, ~self._is_target)
        )
        return tau + nu

    def _slope(self, threshold: float) -> float:
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


def _recalibrated(hull: RocSteps, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) log-likelihood ratios by the best monotonic recalibration: the logarithm of the slope of a score's edge."""
    targets = np.diff(hull.true_accepts) / hull.num_targets
    nontargets = np.diff(hull.false_accepts) / hull.num_nontargets
    with np.errstate(divide="ignore"):
        ratio = np.clip(np.log(targets) - np.log(nontargets), -30.0, 30.0)
    edge = np.searchsorted(-hull.threshold, -scores, side="left") - 1
    recalibrated: NDArray[np.float64] = ratio[np.clip(edge, 0, len(ratio) - 1)]
    return recalibrated
