"""The figures of a trial list on resamples of its speakers.

Trials of one speaker share that speaker's voice, so they are not independent, and a bootstrap that draws trials gives
intervals that are far too narrow. Here speakers are drawn, with replacement; a speaker drawn m times counts as m::

    target trial of speaker a              weight m_a
    non-target trial of speakers a and b   weight m_a m_b

so that the dependence of trials through either of their speakers is kept. Every figure is then computed anew from the
weighted trials. What is made of the figures stands in :mod:`wespeaker_qm.evaluate.intervals`.

Speed: trials are sorted once. Neighbours in the order of scores that are all targets, or all non-targets, make a run.
No figure changes when a run is counted as one step (its points lie on a straight part of the curve), so that a resample
costs a look-up and a sum for each trial, and the figures the number of runs.

Legend: N trials, S speakers, J runs, M figures, R resamples, G rates of a grid.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.figure import Curves, Figure
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.influence import Influence
from wespeaker_qm.evaluate.log_likelihood import cllr_costs
from wespeaker_qm.evaluate.operating_points import RocSteps, convex_hull
from wespeaker_qm.trials.speakers import EffectiveSpeakers, TrialSpeakers, effective_speakers
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.progress import Progress

NUM_RESAMPLES = 1000
_STREAM = 0xB007


@dataclasses.dataclass(frozen=True, eq=False)
class SortedTrials:
    """The trials of one system in the order of their scores, ready to be weighted."""

    scores: NDArray[np.float64]
    """(N,) in the order of the list."""
    is_target: NDArray[np.bool_]
    """(N,) in the order of the list."""
    wanted: tuple[Figure, ...]
    """M figures."""
    order: NDArray[np.int64]
    """(N,) trials, score falling."""
    run_start: NDArray[np.int64]
    """(J,) place in the order at which each run begins."""
    run_threshold: NDArray[np.float64]
    """(J + 1,) lowest score of each run, after a value above all."""

    @functools.cached_property
    def curves(self) -> Curves:
        """The curves of the trials themselves, each counted once."""
        return self.weighted(np.ones(len(self.scores), np.int32))

    @functools.cached_property
    def influence(self) -> Influence:
        """The parts of the figures' influence functions."""
        return Influence(self.scores, self.is_target, self.curves.hull)

    @functools.cached_property
    def costs(self) -> NDArray[np.float64]:
        """(N,) of Cllr, which no resample changes."""
        return cllr_costs(self.scores, self.is_target)

    @classmethod
    def of(
        cls, scores: NDArray[np.float64], is_target: NDArray[np.bool_], wanted: Sequence[Figure] | None = None
    ) -> "SortedTrials":
        """Sort ``scores`` (N,), which are finite, with their labels (N,); all figures at the usual rates by default."""
        wanted = wanted_figures() if wanted is None else tuple(wanted)
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
        lowest = falling[np.flatnonzero(ends_tie)]
        for figure in wanted:
            if (threshold := figure.fixed_threshold) is not None:  # where decisions are made is the end of a run
                first_rejected = int((lowest >= threshold).sum())
                begins[first_rejected : first_rejected + 1] = True
        tie_start = np.concatenate(([0], np.flatnonzero(ends_tie)[:-1] + 1))
        run_start = tie_start[begins]
        last = np.append(run_start[1:], len(scores)) - 1
        run_threshold = np.concatenate(([np.nextafter(falling[0], np.inf)], falling[last]))
        return cls(scores, is_target, wanted, order, run_start, run_threshold)

    def weighted(self, weights: NDArray[np.int32]) -> Curves:
        """The curves of the trials, each counted ``weights`` (N,), in the list's order, times."""
        roc = self._roc(weights)
        hull = convex_hull(roc)
        needs_llr = any(figure.kind.needs_llr for figure in self.wanted)
        return Curves(roc, hull, cost_points=hull, cllr=self._cllr(weights) if needs_llr else None)

    def values(self, curves: Curves) -> list[float]:
        """The M figures, read from curves of these trials."""
        return [figure.value_of(figure.read(curves)) for figure in self.wanted]

    def _roc(self, weights: NDArray[np.int32]) -> RocSteps:
        """Operating points at the ends of the runs."""
        falling = weights[self.order]
        accepted = np.add.reduceat(falling, self.run_start, dtype=np.int64)
        falling *= self.is_target[self.order]
        true_accepts = np.cumsum(np.add.reduceat(falling, self.run_start, dtype=np.int64))
        return RocSteps(
            threshold=self.run_threshold,
            false_accepts=np.concatenate(([0], np.cumsum(accepted) - true_accepts)),
            true_accepts=np.concatenate(([0], true_accepts)),
        )

    def _cllr(self, weights: NDArray[np.int32]) -> float:
        kinds = (self.is_target, ~self.is_target)
        return float(sum(weights[kind] @ self.costs[kind] / weights[kind].sum() for kind in kinds) / 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Resamples:
    """The figures of one system on the trials themselves and on every resample."""

    system: SortedTrials
    speakers: TrialSpeakers | None
    """None where trials were drawn."""
    effective: EffectiveSpeakers | None
    """Number of speakers, by their shares of the trials; None likewise."""
    estimates: NDArray[np.float64]
    """(M,) the figures that are wanted of the system, on the trials themselves."""
    values: NDArray[np.float64]
    """(R, M) on the resamples."""
    grid: NDArray[np.float64]
    """(G,) false-accept rates."""
    frr: NDArray[np.float64]
    """(R, G) miss rate at each of them."""

    def column(self, figure: Figure) -> NDArray[np.float64]:
        """(R,) one figure on the resamples."""
        return self.values[:, self.system.wanted.index(figure)]

    def estimate(self, figure: Figure) -> float:
        """One figure on the trials themselves."""
        return float(self.estimates[self.system.wanted.index(figure)])


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
        RecipeError: fewer than two speakers, or draws that keep lacking targets or non-targets.
    """
    grid = np.empty(0) if far_grid is None else far_grid
    num_trials, is_target = len(systems[0].order), systems[0].is_target
    estimates = [np.array(system.values(system.curves)) for system in systems]
    values = [np.empty((num_resamples, len(system.wanted))) for system in systems]
    frr = [np.empty((num_resamples, len(grid))) for _ in systems]
    draws = _usable(_draws(num_trials, speakers, seed), _weigher(speakers), is_target)
    for r in Progress(range(num_resamples), desc=progress, unit="resample", show=progress is not None):
        weights = next(draws)
        for position, system in enumerate(systems):
            curves = system.weighted(weights)
            values[position][r] = system.values(curves)
            if len(grid):
                roc = curves.roc
                frr[position][r] = roc.frr[np.searchsorted(roc.far, grid, side="right") - 1]
    effective = None if speakers is None else effective_speakers(speakers, is_target)
    return [
        Resamples(system, speakers, effective, estimates[number], values[number], grid, frr[number])
        for number, system in enumerate(systems)
    ]


def _draws(num_trials: int, speakers: TrialSpeakers | None, seed: int) -> Iterator[NDArray[np.int32]]:
    """How often each speaker, or each trial, is drawn; one array a resample, without end."""
    if speakers is None:
        rng = np.random.default_rng((seed, _STREAM, 1))
        while True:
            yield np.bincount(rng.integers(num_trials, size=num_trials), minlength=num_trials).astype(np.int32)
    if speakers.num_speakers < 2:
        raise RecipeError(
            f"{counted(speakers.num_speakers, 'speaker', 'speakers')}: intervals over speakers need at least 2"
        )
    rng = np.random.default_rng((seed, _STREAM))
    chances = np.full(speakers.num_speakers, 1 / speakers.num_speakers)
    while True:
        yield rng.multinomial(speakers.num_speakers, chances).astype(np.int32)


def _usable(
    draws: Iterator[NDArray[np.int32]],
    weigh: Callable[[NDArray[np.int32]], NDArray[np.int32]],
    is_target: NDArray[np.bool_],
) -> Iterator[NDArray[np.int32]]:
    """The weights of the draws that have both kinds of trials; in a list of a few speakers a draw may lack one."""
    num_useless = 0
    for number, draw in enumerate(draws):
        weights = weigh(draw)
        if (weights * is_target).any() and (weights * ~is_target).any():
            yield weights
            continue
        num_useless += 1
        if num_useless > 20 + number / 2:
            raise RecipeError(
                "most resamples have no target or no non-target trials: too few speakers for intervals; leave them out "
                "(--num_resamples 0)"
            )


def _weigher(speakers: TrialSpeakers | None) -> Callable[[NDArray[np.int32]], NDArray[np.int32]]:
    """Draw -> (N,) weight of each trial in the order of the list."""
    if speakers is None:
        return lambda draw: draw
    # A target trial has one speaker: its weight is the first factor alone, the second is the 1 at the end.
    within = np.where(speakers.enrolment == speakers.test, speakers.num_speakers, speakers.test)

    def weigh(draw: NDArray[np.int32]) -> NDArray[np.int32]:
        weights: NDArray[np.int32] = draw[speakers.enrolment]
        weights *= np.append(draw, np.int32(1))[within]
        return weights

    return weigh
