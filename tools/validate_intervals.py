#!/usr/bin/env python3
"""How often do 95 % intervals hold the true value? Simulated trial lists with speaker effects, whose truth is known.

    tools/validate_intervals.py [--lists 400] [--resamples 300]

Every speaker has an effect on the scores of all non-target trials it is in, and another on its target trials::

    non-target trial of a and b   u_a + u_b + e
    target trial of a             d + v_a + e      u, v, e normal

so rates over all speakers there could be follow from two normal distributions. A second system, for paired
differences, shares part of the effects. Printed: per cent of the lists whose interval holds the truth, with speakers
drawn and with trials drawn.
"""

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from tqdm import tqdm

from wespeaker_qm.evaluate.bootstrap import FigureSet, SortedTrials, resample
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.evaluate.metrics import markdown_table
from wespeaker_qm.evaluate.operating_points import far_name
from wespeaker_qm.evaluate.trial_speakers import TrialSpeakers


class Design(NamedTuple):
    """A kind of trial list and of system."""

    name: str
    num_speakers: int
    trials_a_speaker: int
    """Target trials; non-target trials between random speakers are twice as many in all."""
    effect: float
    """Deviation of u; that of v is twice it. e has deviation 1."""
    distance: float
    """d."""
    fars: tuple[float, ...]


DESIGNS = (
    Design("40 speakers, strong effects", 40, 100, 0.5, 3.0, (1e-1, 1e-2)),
    Design("200 speakers, strong effects", 200, 40, 0.5, 3.5, (1e-1, 1e-2, 1e-3)),
    Design("200 speakers, weak effects", 200, 40, 0.15, 3.5, (1e-1, 1e-2, 1e-3)),
    Design("1,000 speakers, strong effects", 1000, 20, 0.5, 4.0, (1e-2, 1e-3, 1e-4)),
)
SHARED = 0.7
"""Of the variance of every effect, what the two systems of a difference share."""


def truth(design: Design, distance: float) -> list[float]:
    """EER, and TAR at each FAR, over all speakers there could be."""
    deviation_n, deviation_t = np.sqrt(1 + 2 * design.effect**2), np.sqrt(1 + 4 * design.effect**2)

    def gap(threshold: float) -> float:
        return norm.sf(threshold / deviation_n) - norm.cdf((threshold - distance) / deviation_t)

    eer = norm.sf(brentq(gap, -10, 20) / deviation_n)
    tars = [norm.sf((deviation_n * norm.isf(far) - distance) / deviation_t) for far in design.fars]
    return [float(value) for value in (eer, *tars)]


def simulate(design: Design, rng: np.random.Generator) -> tuple[TrialSpeakers, NDArray[np.bool_], list[NDArray]]:
    """Speakers, labels, and the scores of two systems of which the second is a little better."""
    num_speakers, each = design.num_speakers, design.trials_a_speaker
    owner = np.repeat(np.arange(num_speakers, dtype=np.int32), each)
    one = rng.integers(num_speakers, size=2 * len(owner)).astype(np.int32)
    other = ((one + rng.integers(1, num_speakers, size=len(one))) % num_speakers).astype(np.int32)
    speakers = TrialSpeakers(np.concatenate([owner, one]), np.concatenate([owner, other]), num_speakers)
    is_target = np.arange(len(speakers.test)) < len(owner)

    def pair(size: int) -> NDArray[np.float64]:
        own = rng.standard_normal((2, size))
        return np.sqrt(SHARED) * rng.standard_normal(size) + np.sqrt(1 - SHARED) * own

    u, v, e = pair(num_speakers), pair(num_speakers), pair(len(is_target))
    scores = []
    for system in range(2):
        target_effect = design.distance + 0.2 * system + 2 * design.effect * v[system][owner]
        nontarget_effect = design.effect * (u[system][one] + u[system][other])
        scores.append(np.concatenate([target_effect, nontarget_effect]) + e[system])
    return speakers, is_target, scores


def covers(design: Design, num_lists: int, num_resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Unit drawn -> (figures, 2) share of lists whose interval holds the truth: of a system, of a difference."""
    names = ["EER", *(f"TAR@FAR {far_name(far)}" for far in design.fars)]
    true = np.array([truth(design, design.distance), truth(design, design.distance + 0.2)])
    hits = {"speaker": np.zeros((len(names), 2)), "trial": np.zeros((len(names), 2))}
    wanted = FigureSet(fars=design.fars, tars=(), p_targets=())
    rng = np.random.default_rng(seed)
    for number in tqdm(range(num_lists), desc=design.name, unit="list"):
        speakers, is_target, scores = simulate(design, rng)
        systems = [SortedTrials.of(each, is_target, wanted) for each in scores]
        for unit, drawn in (("speaker", speakers), ("trial", None)):
            one, two = resample(systems, drawn, num_resamples=num_resamples, seed=number)
            for row, name in enumerate(names):
                for column, (each, true_value) in enumerate(
                    [(spread(name, [one]), true[0][row]), (spread(name, [two], [one]), true[1][row] - true[0][row])]
                ):
                    low, high = each.interval()
                    hits[unit][row, column] += low <= true_value <= high
    return {unit: count / num_lists for unit, count in hits.items()}


def main() -> None:
    """Simulate every design, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for design in DESIGNS:
        share = covers(design, args.lists, args.resamples, args.seed)
        for position, name in enumerate(["EER", *(f"TAR@FAR {far_name(far)}" for far in design.fars)]):
            cells = [share[unit][position, column] for column in (0, 1) for unit in ("speaker", "trial")]
            rows.append([f"{design.name}: {name}", *(f"{100 * cell:.1f}" for cell in cells)])
    header = ["per cent of intervals that hold the truth", "by speaker", "by trial"]
    header += ["difference, by speaker", "difference, by trial"]
    print(f"{args.lists} lists of each kind, {args.resamples} resamples each, nominally 95 %:\n")
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
