"""What a training run was and how it went: the loss, the amount of training, and the learning curves.

Reads the ``train_log.jsonl`` of the trainer, one JSON object a line, of which the field ``type`` says what it is:
``step`` (means since the last one: ``step loss accuracy margin learning_rate``, and for alpha > 1 ``support
candidate_density solved dropped``), ``epoch`` (the same over the epoch, and ``samples minutes`` since the start of
training) and ``valid`` (held-out verification: ``step eer``). Accuracy is that of the cosines without a margin.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.config import Config
from wespeaker_qm.evaluate.operating_points import number_name
from wespeaker_qm.report.det import COLOURS
from wespeaker_qm.utils.checksums import verify
from wespeaker_qm.utils.errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossCard:
    """The loss of a run, as Table 5 names it."""

    name: str
    alpha: float | None
    """None for the losses without an alpha."""
    scale: float
    margin: float
    """The final margin."""

    def __str__(self) -> str:
        alpha = "" if self.alpha is None else f"α {number_name(self.alpha)}, "
        return f"{self.name} ({alpha}s {number_name(self.scale)}, m {number_name(self.margin)})"


def loss_card(config: Config) -> LossCard:
    """The loss that ``config`` trains."""
    loss = config.projection_args.definition
    return LossCard(
        name=loss.paper_name,
        alpha=loss.alpha,
        scale=config.projection_args.scale,
        margin=config.margin_update.final_margin,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingLog:
    """The records of one run, in order."""

    steps: list[dict[str, Any]]
    """Records of type ``step``; none when the logging interval is longer than an epoch."""
    epochs: list[dict[str, Any]]
    """Records of type ``epoch``, at least one."""
    validations: list[dict[str, Any]]
    """Records of type ``valid``."""

    @property
    def num_epochs(self) -> int:
        """Epochs that were finished."""
        return int(self.epochs[-1]["epoch"])

    @property
    def num_samples(self) -> int:
        """Training samples seen."""
        return int(self.epochs[-1]["samples"])

    @property
    def minutes(self) -> float:
        """Minutes of training, interruptions not counted."""
        return float(self.epochs[-1]["minutes"])

    def __str__(self) -> str:
        return f"{self.num_samples:,} training samples in {self.num_epochs} epochs and {self.minutes:.1f} minutes"


def read_training_log(path: Path | str) -> TrainingLog:
    """Read ``train_log.jsonl``.

    Raises:
        RecipeError: no such file, not what was written, no finished epoch in it, or a line that is not a record.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; train first (run.sh --stage 3)")
    verify(path, "put back a copy of it, or train again into another --exp_dir", grows=True)
    records: dict[str, list[dict[str, Any]]] = {"step": [], "epoch": [], "valid": []}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            records[record["type"]].append(record)
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(
                f"{path}:{number}: found {line[:80].decode(errors='replace')!r}, expected a JSON object whose type is "
                f"one of {', '.join(records)}; go on with the training (run.sh --stage 3), which mends the log"
            ) from error
    if not records["epoch"]:
        raise RecipeError(f"{path}: no finished epoch; go on with the training (run.sh --stage 3)")
    return TrainingLog(records["step"], records["epoch"], records["valid"])


def training_figure(log: TrainingLog, title: str) -> "Figure":
    """Learning curves over the training samples: loss, accuracy, validation EER, learning rate and margin.

    A run with alpha > 1 has two more panels: how many classes share the posterior, and how many samples are solved
    (their own class has all of it) or dropped (none).

    Faint: the logged steps. Bold: means over epochs, drawn in the middle of the epoch.
    """
    from matplotlib.figure import Figure

    samples_per_step = log.num_samples / log.epochs[-1]["step"]
    epoch_samples = log.num_samples / log.num_epochs

    def thousands(records: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
        samples: NDArray[np.float64] = _column(records, "step") * samples_per_step
        return samples / 1000

    is_sparse = "support" in log.epochs[0]
    figure = Figure(figsize=(8.4, 8.2 if is_sparse else 5.6), dpi=130, layout="constrained")
    panels = figure.subplots(3 if is_sparse else 2, 2, sharex=True)
    middle = thousands(log.epochs) - epoch_samples / 2000
    for axes, field, factor, name in (
        (panels[0, 0], "loss", 1, "training loss"),
        (panels[0, 1], "accuracy", 100, "training accuracy without margin (%)"),
    ):
        axes.plot(thousands(log.steps), factor * _column(log.steps, field), color=COLOURS[0], alpha=0.3, linewidth=0.8)
        axes.plot(middle, factor * _column(log.epochs, field), ".-", color=COLOURS[0], linewidth=1.8)
        axes.set_ylim(bottom=0)
        _style(axes, name)

    valid, schedule = panels[1]
    if log.validations:
        valid.plot(thousands(log.validations), 100 * _column(log.validations, "eer"), "o-", color=COLOURS[1], ms=4)
        valid.set_ylim(bottom=0)
    else:
        valid.annotate("no validation list", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.5")
    _style(valid, "validation EER (%)")

    scheduled = log.steps or log.epochs
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
        support.plot(middle, _column(log.epochs, "support"), ".-", color=COLOURS[0], linewidth=1.8)
        support.set_yscale("log")
        support.yaxis.set_major_formatter("{x:g}")
        support.yaxis.set_minor_formatter("{x:g}")
        _style(support, "support: classes with a posterior above 0")
        for number, (name, meaning) in enumerate((("solved", "all"), ("dropped", "none"))):
            label = f"{name}: own class has {meaning} of the posterior"
            shares.plot(middle, 100 * _column(log.epochs, name), ".-", color=COLOURS[number], label=label)
        shares.set_ylim(0, 100)
        shares.legend(fontsize=8, frameon=False)
        _style(shares, "samples (%)")

    panels[0, 0].set_xlim(0, log.num_samples / 1000)
    for axes in panels[-1]:
        axes.set_xlabel("training samples (thousands)", fontsize=9)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _column(records: Sequence[dict[str, Any]], field: str) -> NDArray[np.float64]:
    return np.array([record[field] for record in records], dtype=np.float64)


def _style(axes: "Axes", title: str, colour: str = "black") -> None:
    axes.set_title(title, fontsize=10, loc="left", color=colour)
    axes.grid(color="0.9", linewidth=0.6)
    axes.tick_params(labelsize=9)
    axes.spines["top"].set_visible(False)
