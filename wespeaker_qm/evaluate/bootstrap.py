"""How far figures of a trial list can be trusted: bootstrap over its speakers.

Trials of one speaker share that speaker's voice, so they are not independent, and a bootstrap that draws trials gives
intervals that are far too narrow. Here speakers are drawn, with replacement; a speaker drawn m times counts as m::

    target trial of speaker a              weight m_a
    non-target trial of speakers a and b   weight m_a m_b

so that the dependence of trials through either of their speakers is kept. Every figure is then computed anew from the
weighted trials. A figure's interval is that of its quantiles over the resamples (the percentile method).
`tools/validate_intervals.py` measures how often such intervals hold the true value.

Speed: trials are sorted once. Neighbours in the order of scores that are all targets, or all non-targets, make a run.
No figure changes when a run is counted as one step (its points lie on a straight part of the curve), so that a resample
costs a look-up and a sum for each trial, and the figures the number of runs.

Legend: N trials, S speakers, J runs, R resamples.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wespeaker_qm.evaluate.log_likelihood import act_dcf, bayes_threshold, cllr_costs, min_cllr
from wespeaker_qm.evaluate.operating_points import (
    FARS,
    P_TARGETS,
    TARS,
    RocSteps,
    best_at_far,
    convex_hull,
    equal_error_rate,
    far_at_tar,
    far_name,
    min_dcf,
)
from wespeaker_qm.utils.errors import RecipeError

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
_STREAM = 0xB007

Unit = Literal["speaker", "trial"]


class TrialSpeakers(NamedTuple):
    """Who speaks on each side of the trials."""

    enrolment: NDArray[np.int32]
    """(N,) speaker numbers from 0 on."""
    test: NDArray[np.int32]
    """(N,) likewise."""
    num_speakers: int
    """S."""


def trial_speakers(enrolment: Sequence[str], test: Sequence[str]) -> TrialSpeakers:
    """Number the speakers of N trials, given by name."""
    names, numbers = np.unique(np.array([enrolment, test]), return_inverse=True)
    numbers = numbers.reshape(2, -1).astype(np.int32)
    return TrialSpeakers(numbers[0], numbers[1], len(names))


def speaker_multiplicities(num_speakers: int, num_resamples: int, seed: int) -> NDArray[np.int32]:
    """(R, S): how often each speaker is drawn. The first R of a longer series are the same."""
    rng = np.random.default_rng((seed, _STREAM))
    chances = np.full(num_speakers, 1 / num_speakers)
    return rng.multinomial(num_speakers, chances, size=num_resamples).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class SortedTrials:
    """The trials of one system in the order of their scores, ready to be weighted."""

    order: NDArray[np.int64]
    """(N,) trials, score falling."""
    is_target: NDArray[np.bool_]
    """(N,) in that order."""
    run_start: NDArray[np.int64]
    """(J,) place at which each run begins."""
    run_threshold: NDArray[np.float64]
    """(J + 1,) lowest score of each run, after a value above all."""
    costs: NDArray[np.float64] | None
    """(N,) in that order, what a trial costs in Cllr; None for scores that are not log-likelihood ratios."""

    @classmethod
    def of(cls, scores: NDArray[np.float64], is_target: NDArray[np.bool_], *, is_llr: bool = False) -> "SortedTrials":
        """Sort ``scores`` (N,), which are finite, with their labels (N,)."""
        order = np.argsort(-scores, kind="stable")
        falling, targets = scores[order], is_target[order]
        ends_tie = np.append(falling[1:] != falling[:-1], True)
        tie = np.concatenate(([0], np.cumsum(ends_tie)[:-1]))
        num_ties = int(tie[-1]) + 1
        tie_targets = np.bincount(tie, weights=targets, minlength=num_ties)
        tie_size = np.bincount(tie, minlength=num_ties)
        # 1 all targets, -1 all non-targets, 0 mixed: only neighbours of the same pure kind join.
        kind = np.where(tie_targets == tie_size, 1, np.where(tie_targets == 0, -1, 0))
        begins = np.ones(num_ties, dtype=np.bool_)
        begins[1:] = (kind[1:] != kind[:-1]) | (kind[1:] == 0)
        costs = None
        if is_llr:
            costs = cllr_costs(falling, targets)
            lowest = falling[np.flatnonzero(ends_tie)]
            for p_target in P_TARGETS:  # where decisions are made is the end of a run
                first_rejected = int((lowest >= bayes_threshold(p_target)).sum())
                begins[first_rejected : first_rejected + 1] = True
        tie_start = np.concatenate(([0], np.flatnonzero(ends_tie)[:-1] + 1))
        run_start = tie_start[begins]
        last = np.append(run_start[1:], len(scores)) - 1
        threshold = np.concatenate(([np.nextafter(falling[0], np.inf)], falling[last]))
        return cls(order, targets, run_start, threshold, costs)

    def curve(self, weights: NDArray[np.int32]) -> RocSteps:
        """Operating points at the ends of the runs, each trial counted ``weights`` (N,), in sorted order, times."""
        accepted = np.add.reduceat(weights, self.run_start, dtype=np.int64)
        targets = np.add.reduceat(weights * self.is_target, self.run_start, dtype=np.int64)
        true_accepts, both = np.cumsum(targets), np.cumsum(accepted)
        return RocSteps(
            threshold=self.run_threshold,
            false_accepts=np.concatenate(([0], both - true_accepts)),
            true_accepts=np.concatenate(([0], true_accepts)),
        )

    def cllr(self, weights: NDArray[np.int32]) -> float:
        """Cllr of the weighted trials.

        Raises:
            ValueError: the scores are not log-likelihood ratios.
        """
        if self.costs is None:
            raise ValueError("Cllr is defined for log-likelihood ratios only")
        is_target = self.is_target
        per_kind = [weights[kind] @ self.costs[kind] / weights[kind].sum() for kind in (is_target, ~is_target)]
        return float(sum(per_kind) / 2)


def figure_names(*, is_llr: bool) -> list[str]:
    """The figures of one system, in the order of :func:`figures`.

    >>> figure_names(is_llr=False)[:3]
    ['EER', 'EER hull', 'minCllr']
    """
    names = ["EER", "EER hull", "minCllr"]
    names += [f"minDCF {p_target}" for p_target in P_TARGETS]
    names += [f"TAR@FAR {far_name(far)}" for far in FARS]
    names += [f"FAR@TAR {tar}" for tar in TARS]
    if is_llr:
        names += ["Cllr", *(f"actDCF {p_target}" for p_target in P_TARGETS)]
    return names


def figures(trials: SortedTrials, weights: NDArray[np.int32]) -> tuple[list[float], RocSteps]:
    """Every figure of the weighted trials, in the order of :func:`figure_names`, and their operating points."""
    roc = trials.curve(weights)
    hull = convex_hull(roc)
    values = [equal_error_rate(roc).rate, equal_error_rate(hull).rate, min_cllr(hull)]
    values += [min_dcf(hull, p_target).cost for p_target in P_TARGETS]
    values += [best_at_far(roc, far).tar for far in FARS]
    values += [far_at_tar(roc, tar).far for tar in TARS]
    if trials.costs is not None:
        values += [trials.cllr(weights), *(act_dcf(roc, p_target) for p_target in P_TARGETS)]
    return values, roc


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """The figures of one system on every resample."""

    names: list[str]
    """M figures."""
    values: NDArray[np.float64]
    """(R, M)."""
    frr: NDArray[np.float64]
    """(R, G) miss rate at each of the grid's FARs."""

    def interval(self, name: str, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval of a figure by the percentile method."""
        low, high = percentile_interval(self.values[:, self.names.index(name)], confidence)
        return float(low), float(high)

    def band(self, confidence: float = CONFIDENCE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(G,) lower and upper miss rate at each of the grid's FARs, one FAR at a time."""
        low, high = percentile_interval(self.frr, confidence)
        return low, high


def percentile_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> NDArray[np.float64]:
    """The quantiles of ``values`` (R, ...) along the first axis between which a share ``confidence`` of them lies."""
    tail = (1 - confidence) / 2
    interval: NDArray[np.float64] = np.quantile(values, [tail, 1 - tail], axis=0)
    return interval


def resample(
    systems: Sequence[SortedTrials],
    speakers: TrialSpeakers | None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    far_grid: NDArray[np.float64] | None = None,
    progress: str | None = None,
) -> list[Resamples]:
    """Compute the figures of ``systems``, all on the same N trials, on the same resamples of the speakers.

    Args:
        systems: each in its own order.
        speakers: of the trials; None draws trials instead, as if they were independent, which they are not.
        num_resamples: R.
        seed: of the draws; the same seed gives the same resamples for any system on these trials.
        far_grid: (G,) false-accept rates at which the miss rate is kept.
        progress: what the progress bar says; None shows none.

    Raises:
        RecipeError: fewer than two speakers, or resamples without targets or non-targets, as few speakers give.
    """
    grid = np.empty(0) if far_grid is None else far_grid
    names = [figure_names(is_llr=system.costs is not None) for system in systems]
    values = [np.empty((num_resamples, len(each))) for each in names]
    frr = np.empty((len(systems), num_resamples, len(grid)))
    weigh = [_weigher(system, speakers) for system in systems]
    draws = _draws(len(systems[0].order), speakers, num_resamples, seed)
    for r, draw in enumerate(
        tqdm(draws, total=num_resamples, desc=progress, unit="resample", disable=progress is None)
    ):
        for position, system in enumerate(systems):
            weights = weigh[position](draw)
            is_target = system.is_target
            if not (weights[is_target].any() and weights[~is_target].any()):
                raise RecipeError(
                    "a resample has no target or no non-target trials: the list has too few "
                    f"{'trials' if speakers is None else 'speakers'} for intervals; leave them out (--num_resamples 0)"
                )
            values[position][r], roc = figures(system, weights)
            if len(grid):
                frr[position, r] = roc.frr[np.searchsorted(roc.far, grid, side="right") - 1]
    return [Resamples(*each) for each in zip(names, values, frr, strict=True)]


def _draws(
    num_trials: int, speakers: TrialSpeakers | None, num_resamples: int, seed: int
) -> Iterator[NDArray[np.int32]]:
    """How often each speaker, or each trial in the order of the list, is drawn; one array a resample."""
    if speakers is not None:
        if speakers.num_speakers < 2:
            raise RecipeError(f"{speakers.num_speakers} speaker(s): intervals over speakers need at least 2")
        yield from speaker_multiplicities(speakers.num_speakers, num_resamples, seed)
        return
    rng = np.random.default_rng((seed, _STREAM, 1))
    for _ in range(num_resamples):
        yield np.bincount(rng.integers(num_trials, size=num_trials), minlength=num_trials).astype(np.int32)


def _weigher(system: SortedTrials, speakers: TrialSpeakers | None) -> Callable[[NDArray[np.int32]], NDArray[np.int32]]:
    """Draw -> weight of each trial in the order of the scores."""
    if speakers is None:
        return lambda draw: draw[system.order]
    enrolment, test = speakers.enrolment[system.order], speakers.test[system.order]
    # A target trial has one speaker: its weight is the first factor alone.
    within = np.where(enrolment == test, speakers.num_speakers, test)

    def weigh(draw: NDArray[np.int32]) -> NDArray[np.int32]:
        return draw[enrolment] * np.append(draw, np.int32(1))[within]

    return weigh
