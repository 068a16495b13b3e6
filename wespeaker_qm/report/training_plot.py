"""The plot of a training run: its learning curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.report.plotting import COLOURS, plot_text
from wespeaker_qm.report.training_history import TrainingHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_plot(history: TrainingHistory, title: str) -> "Figure":
    """Learning curves over the training samples: loss, accuracy, validation EER, learning rate and margin.

    A run with alpha > 1 has two more panels: how many classes share the posterior, and how many samples are solved
    (their own class has all of it) or dropped (none).

    Faint: the logged steps. Bold: means over epochs, drawn in the middle of the epoch.
    """
    from matplotlib.figure import Figure

    samples_per_step = history.num_samples / history.epochs[-1]["step"]
    epoch_samples = history.num_samples / history.num_epochs

    def thousands(records: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
        samples: NDArray[np.float64] = _column(records, "step") * samples_per_step
        return samples / 1000

    is_sparse = "support" in history.epochs[0]
    plot = Figure(figsize=(8.4, 8.2 if is_sparse else 5.6), dpi=130, layout="constrained")
    panels = plot.subplots(3 if is_sparse else 2, 2, sharex=True)
    middle = thousands(history.epochs) - epoch_samples / 2000
    for axes, field, factor, name in (
        (panels[0, 0], "loss", 1, "training loss"),
        (panels[0, 1], "accuracy", 100, "training accuracy without margin (%)"),
    ):
        axes.plot(
            thousands(history.steps), factor * _column(history.steps, field), color=COLOURS[0], alpha=0.3, linewidth=0.8
        )
        axes.plot(middle, factor * _column(history.epochs, field), ".-", color=COLOURS[0], linewidth=1.8)
        axes.set_ylim(bottom=0)
        _style(axes, name)

    valid, schedule = panels[1]
    if history.validations:
        valid.plot(
            thousands(history.validations), 100 * _column(history.validations, "eer"), "o-", color=COLOURS[1], ms=4
        )
        valid.set_ylim(bottom=0)
    else:
        valid.annotate("no validation list", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.5")
    _style(valid, "validation EER (%)")

    scheduled = history.steps or history.epochs
    schedule.plot(thousands(scheduled), _column(scheduled, "learning_rate"), color=COLOURS[0])
    schedule.set_yscale("log")
    _style(schedule, "learning rate", COLOURS[0])
    margin = schedule.twinx()
    margin.plot(thousands(scheduled), _column(scheduled, "margin"), color=COLOURS[2], linestyle="--")
    margin.set_title("margin (dashed)", fontsize=10, loc="right", color=COLOURS[2])
    margin.set_ylim(bottom=0)
    margin.tick_params(labelsize=9)
    margin.spines["top"].set_visible(False)

    if is_sparse:
        support, shares = panels[2]
        support.plot(middle, _column(history.epochs, "support"), ".-", color=COLOURS[0], linewidth=1.8)
        support.set_yscale("log")
        support.yaxis.set_major_formatter("{x:g}")
        support.yaxis.set_minor_formatter("{x:g}")
        _style(support, "support: classes with a posterior above 0")
        for number, (name, meaning) in enumerate((("solved", "all"), ("dropped", "none"))):
            label = f"{name}: own class has {meaning} of the posterior"
            shares.plot(middle, 100 * _column(history.epochs, name), ".-", color=COLOURS[number], label=label)
        shares.set_ylim(0, 100)
        shares.legend(fontsize=8, frameon=False)
        _style(shares, "samples (%)")

    panels[0, 0].set_xlim(0, history.num_samples / 1000)
    for axes in panels[-1]:
        axes.set_xlabel("training samples (thousands)", fontsize=9)
    plot.suptitle(plot_text(title), fontsize=11, fontweight="bold")
    return plot


def _column(records: Sequence[dict[str, Any]], field: str) -> NDArray[np.float64]:
    return np.array([record[field] for record in records], dtype=np.float64)


def _style(axes: "Axes", title: str, colour: str = "black") -> None:
    axes.set_title(title, fontsize=10, loc="left", color=colour)
    axes.grid(color="0.9", linewidth=0.6)
    axes.tick_params(labelsize=9)
    axes.spines["top"].set_visible(False)
