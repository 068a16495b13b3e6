"""The detection-error trade-off (DET) plot: misses against false accepts on normal-deviate (probit) axes.

On these axes the curve of a system with normally distributed scores is a straight line, and a false-accept rate of 1e-4
(at which a bank would decide) has as much room as the equal error rate. The axes reach 1e-5 whatever the list; a curve
is drawn only as far as its trials can show, one false accept in N non-target trials.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from wespeaker_qm.evaluate.intervals import Band
from wespeaker_qm.evaluate.operating_points import RocSteps, equal_error_rate, far_name, tar_at_far
from wespeaker_qm.report.plotting import COLOURS, plot_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR_LIMITS = (1e-5, 0.6)
FRR_LIMITS = (1e-3, 0.98)
TICKS = {
    1e-5: "0.001", 1e-4: "0.01", 1e-3: "0.1", 2e-3: "0.2", 5e-3: "0.5", 0.01: "1", 0.02: "2", 0.05: "5", 0.1: "10",
    0.2: "20", 0.4: "40", 0.6: "60", 0.8: "80", 0.9: "90", 0.95: "95",
}  # fmt: skip
"""Rate -> its label in per cent."""
MARKED_FARS = (1e-3, 1e-4)
"""The operating points of the paper's Table 5."""
LINE_STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (2, 1)))
LOWER_LEFT = ((-1, -1), (1, -1), (-1, 1))
"""Corners of the triangle that marks what lies below and to the left."""
RESOLUTION = 2e-3
"""Probits; a curve is thinned to this, about a third of a pixel."""


def det_curve(roc: RocSteps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of a DET curve that can be measured: FAR rising, FRR falling, both strictly inside (0, 1).

    Points that a plot cannot tell apart are left out, so that a million trials make a small file.
    """
    inside = (roc.false_accepts > 0) & (roc.false_accepts < roc.num_nontargets)
    inside &= (roc.true_accepts > 0) & (roc.true_accepts < roc.num_targets)
    far, frr = roc.far[inside], roc.frr[inside]
    grid = np.stack([ndtri(far), ndtri(frr)]) / RESOLUTION
    moves = np.ones(len(far), dtype=np.bool_)
    moves[1:] = (np.floor(grid[:, 1:]) != np.floor(grid[:, :-1])).any(axis=0)
    return far[moves], frr[moves]


def band_name(label: str) -> str:
    """What a legend calls the band of a system."""
    return f"95 % band of {label}"


class EerMark(NamedTuple):
    """Where the equal error rate of a system is marked."""

    far: float
    frr: float
    is_bound: bool
    """The rate lies below what is marked."""


def eer_mark(roc: RocSteps) -> EerMark:
    """On the diagonal, but where that is off the axes at their edge.

    No trial is an error, as a rule because there are few: then at one false accept and one miss, for 0 has no place.
    """
    rate = equal_error_rate(roc).rate
    if rate >= FRR_LIMITS[0]:
        return EerMark(rate, rate, False)
    far, frr = (rate, rate) if rate > 0 else (1 / roc.num_nontargets, 1 / roc.num_targets)
    return EerMark(max(far, FAR_LIMITS[0]), max(frr, FRR_LIMITS[0]), True)


def distinct_curves(systems: Mapping[str, RocSteps]) -> dict[str, RocSteps]:
    """Join the names of systems that order all trials alike: their curves lie on each other, and the first is kept."""
    groups: list[tuple[list[str], RocSteps]] = []
    for label, roc in systems.items():
        for labels, other in groups:
            if np.array_equal(roc.false_accepts, other.false_accepts) and np.array_equal(
                roc.true_accepts, other.true_accepts
            ):
                labels.append(label)
                break
        else:
            groups.append(([label], roc))
    return {", ".join(labels): roc for labels, roc in groups}


def det_plot(systems: Mapping[str, RocSteps], title: str, subtitle: str = "", band: Band | None = None) -> "Figure":
    """Draw the DET curves of several systems over each other, in the order given.

    Args:
        systems: label -> operating points (:func:`distinct_curves`).
        title: above the curves.
        subtitle: below the title, in small print.
        band: interval of the miss rate of the first system at each FAR, drawn behind its curve. Bands of several
            systems on each other are grey, and nobody can tell whose is whose.

    Filled circles lie on the equal-error diagonal; hollow ones are the measured misses at FAR 1e-3 and 1e-4. A system
    without any error has no curve, but a triangle at one error in so many trials, which its rates are below.
    """
    from matplotlib.figure import Figure

    plot = Figure(figsize=(7.2, 8.4), dpi=150, layout="constrained")
    axes = plot.add_subplot()
    _draw_frame(axes)
    for position, (label, roc) in enumerate(systems.items()):
        _draw_system(axes, position, label, roc)
    if band is not None:
        low, high = (np.clip(edge, *FRR_LIMITS) for edge in (band.low, band.high))
        whose = plot_text(band_name(next(iter(systems))))
        axes.fill_between(band.far, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label=whose)
    axes.set_title(plot_text(title), fontsize=12, fontweight="bold", pad=38)
    axes.annotate(
        subtitle, (0.5, 1), xycoords="axes fraction", color="0.35", fontsize=9, ha="center",
        xytext=(0, 24), textcoords="offset points",
    )  # fmt: skip
    ncols = min(2, len(systems) + (band is not None))
    plot.legend(loc="outside lower center", ncols=ncols, fontsize=9, frameon=False, handlelength=3.4)
    return plot


def _draw_frame(axes: "Axes") -> None:
    """Axes, grid, the equal-error diagonal and the two operating points."""
    functions = (ndtri, ndtr)
    axes.set_xscale("function", functions=functions)
    axes.set_yscale("function", functions=functions)
    axes.set_xlim(*FAR_LIMITS)
    axes.set_ylim(*FRR_LIMITS)
    for limits, axis in ((FAR_LIMITS, axes.xaxis), (FRR_LIMITS, axes.yaxis)):
        ticks = {rate: label for rate, label in TICKS.items() if limits[0] <= rate <= limits[1]}
        axis.set_ticks(list(ticks), labels=list(ticks.values()))
        axis.set_ticks([], minor=True)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=9)
    axes.set_xlabel("false-accept rate FAR (%)")
    axes.set_ylabel("miss rate FRR = 1 − TAR (%)")
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    diagonal = ndtr(np.linspace(ndtri(FRR_LIMITS[0]), ndtri(FAR_LIMITS[1]), 50))
    axes.plot(diagonal, diagonal, color="0.6", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        "FAR = FRR", (0.005, 0.005), color="0.45", fontsize=8, rotation=45, ha="right", va="bottom",
        xytext=(6, -6), textcoords="offset points",
    )  # fmt: skip
    for far in MARKED_FARS:
        axes.axvline(far, color="0.55", linewidth=0.9, linestyle=":", zorder=1.5)
        axes.annotate(
            f"FAR {far_name(far)}", (far, FRR_LIMITS[1]), color="0.35", fontsize=8, ha="center",
            xytext=(0, 4), textcoords="offset points",
        )  # fmt: skip


def _draw_system(axes: "Axes", position: int, label: str, roc: RocSteps) -> None:
    colour = COLOURS[position % len(COLOURS)]
    far, frr = det_curve(roc)
    rate, eer = equal_error_rate(roc).rate, eer_mark(roc)
    axes.plot(
        far, frr, color=colour, linestyle=LINE_STYLES[position % len(LINE_STYLES)], linewidth=1.8,
        drawstyle="steps-post", label=plot_text(f"{label}   EER {100 * rate:.2f} %"), zorder=3 - 0.01 * position,
    )  # fmt: skip
    if FAR_LIMITS[0] <= eer.far < FAR_LIMITS[1]:
        marker = LOWER_LEFT if eer.is_bound else "o"
        axes.plot(
            eer.far, eer.frr, marker=marker, color=colour, markersize=9 if eer.is_bound else 5.5, zorder=4,
            clip_on=not eer.is_bound,
        )  # fmt: skip
    points = [(mark, tar_at_far(roc, mark)) for mark in MARKED_FARS]
    marks = [(mark, 1 - point.tar) for mark, point in points if point is not None]
    if marks:
        axes.plot(
            *zip(*marks, strict=True), "o", color=colour, markerfacecolor="white", markeredgewidth=1.5, markersize=6,
            zorder=4,
        )  # fmt: skip
