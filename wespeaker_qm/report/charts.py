"""The charts of the page, as data for plotly: built by its Python library, drawn by its JavaScript in the page."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from wespeaker_qm.evaluate.intervals import Band
from wespeaker_qm.evaluate.operating_points import RocSteps
from wespeaker_qm.report.det_plot import FAR_LIMITS, FRR_LIMITS, TICKS, band_name, det_curve, eer_mark
from wespeaker_qm.report.plotting import COLOURS
from wespeaker_qm.report.training_history import TrainingHistory

NUM_BINS = 80
MAX_POINTS = 6000
"""Operating points kept for the threshold explorer: the first, where false accepts are few, and a share of the rest."""

_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "inherit", "size": 13},
    "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
    "legend": {"orientation": "h", "y": -0.18},
    "hovermode": "closest",
}


def det_chart(systems: Mapping[str, RocSteps], bands: Mapping[str, Band | None]) -> dict[str, Any]:
    """DET curves on normal-deviate axes, and behind them the band of the first system that has one.

    A system without a line is there as points (:func:`.det_plot.eer_mark`): plotly would leave it out, name and all.
    """
    import plotly.graph_objects as go

    chart = go.Figure()
    traces = band_traces(systems, bands)
    for trace in list(traces.values())[:1]:
        chart.add_scatter(**trace)
    for position, (label, roc) in enumerate(systems.items()):
        colour = COLOURS[position % len(COLOURS)]
        shown = _chart_text(label)
        far, frr = det_curve(roc)
        x, y = far, frr
        look: dict[str, Any] = {"mode": "lines"}
        below = ""
        if len(far) < 2:  # no line to see
            mark = eer_mark(roc)
            far, frr = np.append(far, mark.far), np.append(frr, mark.frr)
            # A bound of a single trial is 1, which is infinitely far out.
            x, y = np.minimum(far, FAR_LIMITS[1]), np.minimum(frr, FRR_LIMITS[1])
            symbol = "triangle-sw" if mark.is_bound else "circle"
            look = {"mode": "markers", "marker": {"color": colour, "size": 11, "symbol": symbol}}
            below = "below " if mark.is_bound else ""
        chart.add_scatter(
            x=_short(ndtri(x)), y=_short(ndtri(y)), **look, name=shown, legendgroup=label,
            line={"color": colour, "width": 2, "shape": "hv"}, meta="curve",
            customdata=np.round(np.stack([100 * far, 100 * frr], axis=1), 4).tolist(),
            hovertemplate=f"FAR {below}%{{customdata[0]}} %<br>FRR {below}%{{customdata[1]}} %<extra>{shown}</extra>",
        )  # fmt: skip
    diagonal = ndtri([FRR_LIMITS[0], FAR_LIMITS[1]]).tolist()
    chart.add_scatter(
        x=diagonal, y=diagonal, mode="lines", line={"color": "#999", "dash": "dash", "width": 1}, hoverinfo="skip",
        showlegend=False, meta="diagonal",
    )  # fmt: skip
    chart.update_layout(**_LAYOUT, height=560)
    for update, limits, title in (
        (chart.update_xaxes, FAR_LIMITS, "false-accept rate FAR (%)"),
        (chart.update_yaxes, FRR_LIMITS, "miss rate FRR = 1 − TAR (%)"),
    ):
        lowest = limits[0] if update == chart.update_xaxes else 1.01 * limits[0]  # in the corner are both
        ticks = {rate: label for rate, label in TICKS.items() if lowest <= rate <= limits[1]}
        update(
            title=title, range=ndtri(limits).tolist(), tickvals=ndtri(list(ticks)).tolist(),
            ticktext=list(ticks.values()), zeroline=False,
        )  # fmt: skip
    return _plain(chart)


def band_traces(systems: Mapping[str, RocSteps], bands: Mapping[str, Band | None]) -> dict[str, dict[str, Any]]:
    """Label -> its band as a trace, for the systems that have one; in the colours of :func:`det_chart`."""
    traces: dict[str, dict[str, Any]] = {}
    for position, label in enumerate(systems):
        band = bands.get(label)
        if band is None:
            continue
        far = np.concatenate([band.far, band.far[::-1]])
        frr = np.clip(np.concatenate([band.low, band.high[::-1]]), *FRR_LIMITS)
        traces[label] = {
            "x": _short(ndtri(far)), "y": _short(ndtri(frr)), "fill": "toself", "mode": "none",
            "fillcolor": _faint(COLOURS[position % len(COLOURS)]), "hoverinfo": "skip", "legendrank": 1001,
            "name": _chart_text(band_name(label)), "meta": "band",
        }  # fmt: skip
    return traces


def _chart_text(text: str) -> str:
    """``text`` as plotly shows it: in names from elsewhere nothing is its HTML or a place for a value."""
    return html.escape(text, quote=False).replace("%", "&#37;")


def histogram_chart(scores: NDArray[np.float64], is_target: NDArray[np.bool_]) -> dict[str, Any]:
    """Densities of target and of non-target scores."""
    import plotly.graph_objects as go

    edges = np.histogram_bin_edges(scores, NUM_BINS)
    chart = go.Figure()
    for name, kind, colour in (("non-target", ~is_target, COLOURS[1]), ("target", is_target, COLOURS[0])):
        density, _ = np.histogram(scores[kind], edges, density=True)
        chart.add_bar(
            x=_short((edges[1:] + edges[:-1]) / 2), y=_short(density), width=float(edges[1] - edges[0]), name=name,
            marker={"color": colour, "opacity": 0.55, "line": {"width": 0}},
        )  # fmt: skip
    chart.update_layout(**_LAYOUT, barmode="overlay", height=360)
    chart.update_layout(legend_y=-0.3)
    chart.update_xaxes(title="score")
    chart.update_yaxes(title="density")
    return _plain(chart)


def training_charts(histories: Mapping[str, TrainingHistory]) -> dict[str, dict[str, Any]]:
    """Learning curves: title -> chart, a curve a run, over thousands of training samples."""
    import plotly.graph_objects as go

    charts = {}
    for field, kind, title in (
        ("loss", "epochs", "training loss"),
        ("accuracy", "epochs", "training accuracy, without margin"),
        ("eer", "validations", "EER on held-out speakers"),
        ("support", "epochs", "classes with a posterior above 0"),
    ):
        chart = go.Figure()
        for position, (name, history) in enumerate(histories.items()):
            records = [record for record in getattr(history, kind) if field in record]
            thousands = history.num_samples / history.epochs[-1]["step"] / 1000
            if records:
                chart.add_scatter(
                    x=[round(record["step"] * thousands, 3) for record in records],
                    y=[float(f"{record[field]:.5g}") for record in records],
                    mode="lines+markers", name=_chart_text(name), marker={"size": 4},
                    line={"color": COLOURS[position % len(COLOURS)]},
                )  # fmt: skip
        if chart.data:
            chart.update_layout(**_LAYOUT, height=300, showlegend=len(histories) > 1)
            chart.update_xaxes(title="thousand training samples")
            charts[title] = _plain(chart)
    return charts


def explorer_points(roc: RocSteps) -> dict[str, Any]:
    """Operating points for the threshold explorer: exact ones, thinned only where there are many."""
    count = len(roc.threshold)
    kept = np.arange(count)
    if count > MAX_POINTS:
        dense = int(np.searchsorted(roc.false_accepts, 200))
        few = np.arange(min(dense, MAX_POINTS // 2))
        kept = np.unique(np.concatenate([few, np.linspace(0, count - 1, MAX_POINTS - len(few)).astype(np.int64)]))
    return {
        "threshold": roc.threshold[kept].tolist(),
        "false_accepts": roc.false_accepts[kept].tolist(),
        "true_accepts": roc.true_accepts[kept].tolist(),
        "num_targets": roc.num_targets,
        "num_nontargets": roc.num_nontargets,
    }


def _short(values: NDArray[np.float64]) -> list[float]:
    """Five digits: a page of a few megabytes instead of tens."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def _plain(chart: Any) -> dict[str, Any]:
    content: dict[str, Any] = chart.to_plotly_json()
    content["layout"]["template"] = None  # 7 kB that repeat the library's defaults
    return content
