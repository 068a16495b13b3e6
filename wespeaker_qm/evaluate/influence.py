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
import weakref

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

_KEPT: "weakref.WeakKeyDictionary[SortedTrials, Influence]" = weakref.WeakKeyDictionary()


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
        kind, rate = _parts(name)
        if kind == "Cllr":
            return self._centred(cllr_costs(self._scores, self._is_target))
        if kind == "minCllr":
            return self._centred(cllr_costs(_recalibrated(self._hull, self._scores), self._is_target))
        threshold = self.threshold(name)
        if threshold is None:
            raise ValueError(f"no influence function for {name!r}")
        tau, nu = self._accepted(threshold)
        if kind == "threshold@FAR":
            return nu
        if kind in ("minDCF", "actDCF"):
            return ((1 - rate) * nu - rate * tau) / min(rate, 1 - rate)
        slope = self._slope(threshold)
        if kind == "TAR@FAR":
            return tau - slope * nu
        return nu - tau / max(slope, 1e-12) if kind == "FAR@TAR" else (slope * nu - tau) / (1 + slope)

    def threshold(self, name: str) -> float | None:
        """The threshold at which the figure ``name`` is read, for minCllr that of the EER; None for Cllr: at none."""
        kind, rate = _parts(name)
        if kind in ("EER", "minCllr"):
            return equal_error_rate(self._roc).threshold
        if kind in ("TAR@FAR", "threshold@FAR"):
            return best_at_far(self._roc, rate).threshold
        if kind == "FAR@TAR":
            return far_at_tar(self._roc, rate).threshold
        if kind == "minDCF":
            return min_dcf(self._hull, rate).threshold
        return bayes_threshold(rate) if kind == "actDCF" else None

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


def influence_of(system: SortedTrials) -> Influence:
    """The influence functions of ``system``, kept as long as it lives."""
    found = _KEPT.get(system)
    if found is None:
        found = _KEPT[system] = Influence(system)
    return found


def _parts(name: str) -> tuple[str, float]:
    """A figure's kind, and the rate or prior that it is read at; NaN where there is none.

    >>> _parts("TAR@FAR 1e-3"), _parts("EER hull")
    (('TAR@FAR', 0.001), ('EER', nan))
    """
    kind, _, argument = name.partition(" ")
    return kind, float(argument) if argument not in ("", "hull") else math.nan


def _recalibrated(hull: RocSteps, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) log-likelihood ratios by the best monotonic recalibration: the logarithm of the slope of a score's edge."""
    targets = np.diff(hull.true_accepts) / hull.num_targets
    nontargets = np.diff(hull.false_accepts) / hull.num_nontargets
    with np.errstate(divide="ignore"):
        ratio = np.clip(np.log(targets) - np.log(nontargets), -30.0, 30.0)
    edge = np.searchsorted(-hull.threshold, -scores, side="left") - 1
    recalibrated: NDArray[np.float64] = ratio[np.clip(edge, 0, len(ratio) - 1)]
    return recalibrated
