"""The plot of a training run: its learning curves."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.report.plotting import COLOURS, plot_text
from wespeaker_qm.report.training_history import TrainingHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Samples(NamedTuple):
    """Places on the axis that all panels share: thousands of training samples."""

    history: TrainingHistory

    def of(self, records: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
        """When a record was written."""
        ends, seen = (np.append(0, _column(self.history.epochs, name)) for name in ("step", "samples"))
        samples: NDArray[np.float64] = np.interp(_column(records, "step"), ends, seen) / 1000
        return samples

    @property
    def middles(self) -> NDArray[np.float64]:
        """Of the epochs, of which means are drawn."""
        first, ends = self.history.epochs[0], self.of(self.history.epochs)
        starts = np.append(ends[0] * (1 - 1 / first["epoch"]), ends[:-1])
        middles: NDArray[np.float64] = (starts + ends) / 2
        return middles


def training_plot(history: TrainingHistory, title: str) -> "Figure":
    """Learning curves over the training samples: loss, accuracy, learning rate and margin; and where there are any:

    validation EER; how many classes share the posterior, and how many samples are solved (their own class has all of
    it) or dropped (none), of a run with alpha > 1.

    Faint: the logged steps. Bold: means over epochs, drawn in the middle of the epoch.
    """
    from matplotlib.figure import Figure

    panels: list[Callable[[Any, _Samples], None]] = [_loss, _accuracy]
    panels += [_validation] if history.validations else []
    panels += [_schedule]
    panels += [_support, _shares] if "support" in history.epochs[0] else []
    num_rows = (len(panels) + 1) // 2
    plot = Figure(figsize=(8.4, 0.4 + 2.6 * num_rows), dpi=130, layout="constrained")
    grid = plot.add_gridspec(num_rows, 2)
    samples = _Samples(history)
    for number, draw in enumerate(panels):
        is_alone = number == len(panels) - 1 and number % 2 == 0
        axes = plot.add_subplot(grid[number // 2, slice(None) if is_alone else number % 2])
        draw(axes, samples)
        axes.set_xlim(0, history.num_samples / 1000)
        if number >= len(panels) - 2:
            axes.set_xlabel("training samples (thousands)", fontsize=9)
    plot.suptitle(plot_text(title), fontsize=11, fontweight="bold")
    return plot


def _loss(axes: "Axes", samples: _Samples) -> None:
    _steps_and_epochs(axes, samples, "loss", 1)
    _style(axes, "training loss")


def _accuracy(axes: "Axes", samples: _Samples) -> None:
    _steps_and_epochs(axes, samples, "accuracy", 100)
    _style(axes, "training accuracy without margin (%)")


def _steps_and_epochs(axes: "Axes", samples: _Samples, field: str, factor: float) -> None:
    steps, epochs = samples.history.steps, samples.history.epochs
    axes.plot(samples.of(steps), factor * _column(steps, field), color=COLOURS[0], alpha=0.3, linewidth=0.8)
    axes.plot(samples.middles, factor * _column(epochs, field), ".-", color=COLOURS[0], linewidth=1.8)
    axes.set_ylim(bottom=0)


def _validation(axes: "Axes", samples: _Samples) -> None:
    records = samples.history.validations
    rates = 100 * _column(records, "eer")
    # Those at the end of the training lie on the frame, and are drawn whole.
    axes.plot(samples.of(records), rates, "o-", color=COLOURS[1], ms=4, clip_on=False)
    axes.set_ylim(0, 1.1 * max(rates.max(), 1e-9))
    _style(axes, "validation EER (%)")


def _schedule(axes: "Axes", samples: _Samples) -> None:
    scheduled = samples.history.steps or samples.history.epochs
    axes.plot(samples.of(scheduled), _column(scheduled, "learning_rate"), color=COLOURS[0])
    _log_scale(axes)
    _style(axes, "learning rate", COLOURS[0])
    margin = axes.twinx()
    margin.plot(samples.of(scheduled), _column(scheduled, "margin"), color=COLOURS[2], linestyle="--")
    margin.set_title("margin (dashed)", fontsize=10, loc="right", color=COLOURS[2])
    margin.set_ylim(bottom=0)
    margin.tick_params(labelsize=9)
    margin.spines["top"].set_visible(False)


def _support(axes: "Axes", samples: _Samples) -> None:
    axes.plot(samples.middles, _column(samples.history.epochs, "support"), ".-", color=COLOURS[0], linewidth=1.8)
    _log_scale(axes)
    _style(axes, "support: classes with a posterior above 0")


def _shares(axes: "Axes", samples: _Samples) -> None:
    for number, (name, meaning) in enumerate((("solved", "all"), ("dropped", "none"))):
        label = f"{name}: own class has {meaning} of the posterior"
        shares = 100 * _column(samples.history.epochs, name)
        axes.plot(samples.middles, shares, ".-", color=COLOURS[number], label=label)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8, frameon=False)
    _style(axes, "samples (%)")


def _log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _column(records: Sequence[dict[str, Any]], field: str) -> NDArray[np.float64]:
    return np.array([record[field] for record in records], dtype=np.float64)


def _style(axes: "Axes", title: str, colour: str = "black") -> None:
    axes.set_title(title, fontsize=10, loc="left", color=colour)
    axes.grid(color="0.9", linewidth=0.6)
    axes.tick_params(labelsize=9)
    axes.spines["top"].set_visible(False)
