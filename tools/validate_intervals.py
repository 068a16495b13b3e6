#!/usr/bin/env python3
"""How often do 95 % intervals hold the true value, and how often do equal systems differ with p < 0.05?

    tools/validate_intervals.py [--lists 400] [--resamples 100] [--rows ", 22 speakers" ...] [--json FILE]

Simulated trial lists. Every speaker has an effect on the scores of all non-target trials it is in, and another on its
target trials::

    non-target trial of a and b   u_a + u_b + e
    target trial of a             d + v_a + e      e normal, with deviation 1

u and v are normal, or have heavy tails: Student's t with 3 degrees of freedom; or exponential, so that few speakers
raise the scores of all their impostors (u) and few have low target scores (v). Both are scaled to the same deviation.
The second system of a difference is as good as the first, and shares part of its effects. Where there are several runs,
each moves d by a draw of its own, as another seed would.

The truth is that of all speakers there could be: the distributions of u + u + e and d + v + e on a fine grid, by
convolution, from which figures are read by the same functions that read them from scores. With several runs it is the
mean over the draws of d (Gauss-Hermite quadrature).

Printed, per cent of lists, for each figure: where an interval was given (``evaluate/evidence.py`` decides); where it
holds the truth, of those; p < 0.05, of those; and the last two for all lists, as if an interval were always given.
At the end all designs in two tables: in italics stands what an interval would be worth where none is given, and after a
share in how many lists it was given, where that is some.
"""

import argparse
import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.stats import norm
from scipy.stats import t as student

from wespeaker_qm.evaluate.bootstrap import Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.evidence import figure_reason
from wespeaker_qm.evaluate.figure import Curves, Figure, Quantity
from wespeaker_qm.evaluate.figures import (
    ACT_DCF,
    CLLR,
    EER,
    FAR_AT_TAR,
    MIN_CLLR,
    MIN_DCF,
    TAR_AT_FAR,
    THRESHOLD_AT_FAR,
    wanted_figures,
)
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.evaluate.operating_points import RocSteps, convex_hull
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.utils.arguments import COUNT, SEED, whole_number
from wespeaker_qm.utils.ownership import write_json

SHARED = 0.7
"""Of the variance of every effect, what the two systems of a difference share."""
STEP = 0.01
"""Of the grid on which the truth is computed."""
REACH = {"normal": 40.0, "t": 300.0, "exponential": 60.0}
"""How far the grid goes to both sides."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """A kind of trial list and of system."""

    name: str
    num_speakers: int
    trials_a_speaker: int = 60
    """Target trials; non-target trials between random speakers are twice as many in all."""
    effect: float = 0.5
    """Deviation of u; that of v is twice it."""
    tails: str = "normal"
    distance: float = 3.0
    """d."""
    fars: tuple[float, ...] = (1e-1, 1e-2)
    uneven: bool = False
    """Of 4 speakers one has half of the trials and one has no non-target trials."""
    runs: tuple[int, int] = (1, 1)
    """Of each system."""
    seed_effect: float = 0.0
    """Deviation of what a run adds to d."""

    @property
    def wanted(self) -> tuple[Figure, ...]:
        """The figures that are validated."""
        return wanted_figures(fars=self.fars, tars=(0.9, 0.99), p_targets=(0.05, 0.01, 0.001), is_llr=True)

    @property
    def slope(self) -> float:
        """What makes scores nearly log-likelihood ratios: (score - d / 2) times it."""
        return self.distance / (1 + 3 * self.effect**2)


SMALL = [
    Design(name=f"{kind}, {number} speakers", num_speakers=number, trials_a_speaker=100 if number < 16 else 60, **extra)
    for number in (3, 5, 8, 12, 16, 22, 30, 40)
    for kind, extra in (
        ("strong effects", {}),
        ("weak effects", {"effect": 0.15}),
        ("Student's t", {"tails": "t"}),
        ("exponential", {"tails": "exponential"}),
    )
]
LARGE = [
    Design(
        name=f"{kind}, {number:,} speakers",
        num_speakers=number,
        trials_a_speaker=each,
        distance=distance,
        fars=fars,
        **extra,
    )
    for number, each, distance, fars in (
        (200, 40, 3.5, (1e-1, 1e-2, 1e-3)),
        (1000, 10, 4.0, (1e-1, 1e-2, 1e-3, 1e-4)),
    )
    for kind, extra in (
        ("strong effects", {}),
        ("weak effects", {"effect": 0.15}),
        ("Student's t", {"tails": "t"}),
        ("exponential", {"tails": "exponential"}),
    )
]
OTHERS = [
    Design(name="uneven, 22 speakers", num_speakers=22, uneven=True),
    Design(name="uneven, 40 speakers", num_speakers=40, uneven=True),
    Design(name="few targets (5 each), 40 speakers", num_speakers=40, trials_a_speaker=5),
    Design(name="few targets (2 each), 200 speakers", num_speakers=200, trials_a_speaker=2),
    *(
        Design(name=f"seeds {one} v {two}, 22 speakers", num_speakers=22, runs=(one, two), seed_effect=0.15)
        for one, two in ((3, 3), (3, 1), (1, 3), (2, 2), (2, 1), (5, 2))
    ),
    Design(name="seeds 3 v 1, 200 speakers", num_speakers=200, trials_a_speaker=20, runs=(3, 1), seed_effect=0.15),
    Design(name="seeds 2 v 2, 200 speakers", num_speakers=200, trials_a_speaker=20, runs=(2, 2), seed_effect=0.15),
]
DESIGNS = [*SMALL, *LARGE, *OTHERS]


def truth(design: Design) -> NDArray[np.float64]:
    """(M,) every figure over all speakers there could be, the mean over the draws of d."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9 if design.seed_effect else 1)
    figures = [_truth(design, design.distance + design.seed_effect * node) for node in nodes]
    return np.asarray(np.average(figures, axis=0, weights=weights))


def _truth(design: Design, distance: float) -> NDArray[np.float64]:
    reach = REACH[design.tails]
    cells = np.arange(-round(reach / STEP), round(reach / STEP) + 1) * STEP
    noise = _masses(cells, "normal", 1.0)
    u, v = _masses(cells, design.tails, design.effect), _masses(cells, design.tails, 2 * design.effect)
    if design.tails == "exponential":
        v = v[::-1]
    nontarget = _convolved(_convolved(u, u), noise)
    # Moved by d on the grid; the rest of a cell is put back by interpolation.
    target = np.interp(cells - distance, cells, _convolved(v, noise), left=0.0, right=0.0)
    target /= target.sum()
    scores = (cells - design.distance / 2) * design.slope
    accepted = [np.round(1e15 * np.cumsum(mass[::-1])).astype(np.int64) for mass in (nontarget, target)]
    lowest = scores[::-1] - STEP / 2 * design.slope
    new = np.diff(accepted[0], prepend=0) + np.diff(accepted[1], prepend=0) > 0
    steps = [np.concatenate(([0], each[new])) for each in accepted]
    roc = RocSteps(np.concatenate(([lowest[0] + 1], lowest[new])), steps[0], steps[1])
    hull = convex_hull(roc)
    cllr = target @ np.logaddexp(0, -scores) + nontarget @ np.logaddexp(0, scores)
    curves = Curves(roc, hull, cost_points=hull, cllr=float(cllr) / (2 * math.log(2)))
    return np.array([figure.value_of(figure.read(curves)) for figure in design.wanted])


def _masses(cells: NDArray[np.float64], tails: str, deviation: float) -> NDArray[np.float64]:
    """The probability of each cell of the grid."""
    edges = np.append(cells - STEP / 2, cells[-1] + STEP / 2) / deviation
    if tails == "normal":
        below = norm.cdf(edges)
    elif tails == "t":
        below = student.cdf(edges * math.sqrt(3), 3)
    else:
        below = -np.expm1(-np.maximum(edges + 1, 0))
    return np.diff(below) / (below[-1] - below[0])


def _convolved(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    mass = np.clip(fftconvolve(one, two, mode="same"), 0, None)
    return np.asarray(mass / mass.sum())


class Simulated(NamedTuple):
    """A trial list, and the scores of the runs of two systems."""

    speakers: TrialSpeakers
    is_target: NDArray[np.bool_]
    scores: list[list[NDArray[np.float64]]]


def simulate(design: Design, rng: np.random.Generator) -> Simulated:
    """A list, and two systems of which none is the better."""
    number, each = design.num_speakers, design.trials_a_speaker
    chances = np.full(number, 1 / number)
    impostors = np.ones(number, np.bool_)
    if design.uneven:
        kind = np.arange(number) % 4
        chances = np.where(kind == 0, 3.0, 1.0)
        impostors = kind != 3
    owner = np.repeat(np.arange(number, dtype=np.int32), np.round(each * chances / chances.mean()).astype(int))
    among = np.flatnonzero(impostors).astype(np.int32)
    one, other = rng.choice(among, size=(2, 5 * len(owner)), p=chances[among] / chances[among].sum())
    apart = np.flatnonzero(one != other)[: 2 * len(owner)]
    one, other = one[apart], other[apart]
    speakers = TrialSpeakers(np.concatenate([owner, one]), np.concatenate([owner, other]), number)
    is_target = np.arange(len(speakers.test)) < len(owner)
    u, v = design.effect * _effects(design, rng), 2 * design.effect * _effects(design, rng)
    if design.tails == "exponential":
        v = -v
    common = math.sqrt(SHARED) * rng.standard_normal(len(is_target))
    scores: list[list[NDArray[np.float64]]] = []
    for system, runs in enumerate(design.runs):
        scores.append([])
        for _ in range(runs):
            distance = design.distance + design.seed_effect * rng.standard_normal()
            noise = common + math.sqrt(1 - SHARED) * rng.standard_normal(len(is_target))
            effects = np.concatenate([distance + v[system][owner], u[system][one] + u[system][other]])
            scores[-1].append((effects + noise - design.distance / 2) * design.slope)
    return Simulated(speakers, is_target, scores)


def _effects(design: Design, rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, S) effects of deviation 1 on two systems, whose correlation is ``SHARED``."""

    def draw(size: tuple[int, ...]) -> NDArray[np.float64]:
        if design.tails == "normal":
            return rng.standard_normal(size)
        if design.tails == "t":
            return rng.standard_t(3, size) / math.sqrt(3)
        return rng.standard_exponential(size) - 1

    # Sums of heavy tails have others than their parts: a speaker's effect is shared as a whole, or not at all.
    shape = (2, design.num_speakers)
    return np.where(rng.random(shape) < math.sqrt(SHARED), draw(shape[1:]), draw(shape))


class Row(NamedTuple):
    """Shares of the lists, for one figure."""

    figure: Figure
    given: float
    holds: float
    """Of those with an interval; NaN where there are none."""
    holds_all: float
    pairs_given: float
    """Where one of the two systems supports a p-value."""
    differs: float
    """p < 0.05, of those."""
    differs_all: float

    def to_json(self) -> dict[str, object]:
        """Plain values; None for a share of nothing."""
        shares = {
            name: None if math.isnan(share) else share for name, share in zip(self._fields[1:], self[1:], strict=True)
        }
        return {"figure": self.figure.name, **shares}


def validate(design: Design, *, num_lists: int, num_resamples: int, seed: int = 0, by: str = "speaker") -> list[Row]:
    """A row a figure."""
    rng = np.random.default_rng((seed, design.num_speakers))
    figures, true = design.wanted, truth(design)
    counts = np.zeros((len(figures), 6))
    for number in range(num_lists):
        speakers, is_target, scores = simulate(design, rng)
        systems = [SortedTrials.of(run, is_target, design.wanted) for runs in scores for run in runs]
        drawn = speakers if by == "speaker" else None
        results = resample(systems, drawn, num_resamples=num_resamples, seed=number)
        sides = results[: design.runs[0]], results[design.runs[0] :]
        for row, figure in enumerate(figures):
            counts[row] += _outcome(figure, sides, true[row])
    shares = counts[:, 1] / np.maximum(counts[:, 0], 1e-9), counts[:, 4] / np.maximum(counts[:, 3], 1e-9)
    return [
        Row(
            figure,
            counts[row, 0] / (2 * num_lists),
            float(shares[0][row]) if counts[row, 0] else math.nan,
            counts[row, 2] / (2 * num_lists),
            counts[row, 3] / num_lists,
            float(shares[1][row]) if counts[row, 3] else math.nan,
            counts[row, 5] / num_lists,
        )
        for row, figure in enumerate(figures)
    ]


def _outcome(
    figure: Figure, sides: tuple[Sequence[Resamples], Sequence[Resamples]], true: float
) -> NDArray[np.float64]:
    """How many of two intervals are given, given and hold, hold; whether p is given, given and small, small."""
    outcome = np.zeros(6)
    supported = [all(figure_reason(figure, run) is None for run in runs) for runs in sides]
    for runs, given in zip(sides, supported, strict=True):
        low, high = spread(figure, runs, even_unsupported=True).interval() or (true, true)
        holds = low <= true <= high
        outcome[:3] += given, given and holds, holds
    if figure.kind.quantity is not Quantity.THRESHOLD:
        p_value = spread(figure, sides[1], sides[0], even_unsupported=True).p_value()
        small = p_value is not None and p_value < 0.05
        outcome[3:] += any(supported), any(supported) and small, small
    return outcome


GROUPS = {
    "EER": [Figure(EER)],
    "minCllr": [Figure(MIN_CLLR)],
    "Cllr": [Figure(CLLR)],
    "TAR@FAR 1e-1 / 1e-2 / 1e-3 / 1e-4": [Figure(TAR_AT_FAR, far) for far in (1e-1, 1e-2, 1e-3, 1e-4)],
    "threshold@FAR 1e-1 / 1e-2 / 1e-3": [Figure(THRESHOLD_AT_FAR, far) for far in (1e-1, 1e-2, 1e-3)],
    "FAR@TAR 0.9 / 0.99": [Figure(FAR_AT_TAR, tar) for tar in (0.9, 0.99)],
    "minDCF 0.05 / 0.01 / 0.001": [Figure(MIN_DCF, p_target) for p_target in (0.05, 0.01, 0.001)],
    "actDCF 0.05 / 0.01": [Figure(ACT_DCF, p_target) for p_target in (0.05, 0.01)],
}
"""Columns of the tables of all designs."""


def summary(results: Mapping[str, Sequence[Row]], *, differences: bool) -> str:
    """A line a design, a column a group of figures: coverage, or how often equal systems differ."""
    lines = []
    for design, rows in results.items():
        by_figure = {row.figure: row for row in rows}
        lines.append([design])
        for group in GROUPS.values():
            known = [by_figure[figure] for figure in group if figure in by_figure]
            lines[-1].append(" / ".join(_share(row, differences) for row in known))
    if not differences:
        return markdown_table(["holds the truth (95)", *GROUPS], lines)
    keep = [0]
    for column, (first, *_) in enumerate(GROUPS.values(), start=1):
        if first.kind.quantity is not Quantity.THRESHOLD:  # systems are not compared in these
            keep.append(column)
    header = ["p < 0.05 (5)", *GROUPS]
    return markdown_table([header[column] for column in keep], [[line[column] for column in keep] for line in lines])


def _per_cent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _share(row: Row, differences: bool) -> str:
    given = row.pairs_given if differences else row.given
    share, share_all = (row.differs, row.differs_all) if differences else (row.holds, row.holds_all)
    if given < 0.005:
        return f"*{100 * share_all:.0f}*"
    return f"{100 * share:.1f}" + ("" if given > 0.995 else f" (in {100 * given:.0f})")


def main() -> None:
    """Simulate designs, print a table of each, and one of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=COUNT, default=400, help="simulated lists a design (default: 400)")
    parser.add_argument("--resamples", type=whole_number(2), default=100, help="of each list (default: 100)")
    parser.add_argument(
        "--rows", nargs="+", default=[""], metavar="REGEX", help="designs whose names match (default: all)"
    )
    parser.add_argument(
        "--by", choices=("speaker", "trial"), default="speaker", help="what is drawn (default: speaker)"
    )
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all shares to FILE")
    args = parser.parse_args()
    results: dict[str, list[Row]] = {}
    print(f"{args.lists} lists of each kind, {args.resamples} resamples of the {args.by}s each; nominally 95 and 5 %:")
    for design in DESIGNS:
        if not any(re.search(pattern, design.name) for pattern in args.rows):
            continue
        start = time.perf_counter()
        rows = validate(design, num_lists=args.lists, num_resamples=args.resamples, seed=args.seed, by=args.by)
        results[design.name] = rows
        header = ["figure", "given", "holds", "(all lists)", "p given", "p < 0.05", "(all lists)"]
        cells = [[row.figure.name, *map(_per_cent, row[1:])] for row in rows]
        print(f"\n{design.name} ({time.perf_counter() - start:.0f} s):\n\n{markdown_table(header, cells)}", flush=True)
        if args.json is not None:
            write_json(args.json, {name: [row.to_json() for row in rows] for name, rows in results.items()})
    for differences in (False, True):
        print(f"\n{summary(results, differences=differences)}")


if __name__ == "__main__":
    main()
