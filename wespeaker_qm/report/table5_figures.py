"""The figures of Table 5 on one trial list: of each loss the mean over its runs, which differ in their seed."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.evaluate.bootstrap import Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.comparison import compare_all
from wespeaker_qm.evaluate.figure import Compared, Figure
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.intervals import spread
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import RocSteps, roc_steps
from wespeaker_qm.evaluate.results import ListResult, Resampling, Sureness
from wespeaker_qm.report.table5_rows import Measured, Table5Row
from wespeaker_qm.report.text import show_figure
from wespeaker_qm.trials.speakers import trial_speakers


@dataclasses.dataclass(frozen=True, eq=False)
class LossFigures:
    """The figures of a loss on a list."""

    roc: RocSteps
    """Operating points of the first run."""
    values: dict[Figure, list[float]]
    """Figure -> its value in each run, of the figures that the list can measure."""
    sureness: dict[Figure, Sureness]
    """Figure -> the interval of the mean for other speakers and, with several runs, other seeds; or why it has none."""

    def value(self, figure: Figure) -> float | None:
        """The mean over the runs; None where it is not measurable."""
        return float(np.mean(self.values[figure])) if figure in self.values else None

    def deviation(self, figure: Figure) -> float | None:
        """The standard deviation of the runs; None of a single one."""
        values = self.values.get(figure, [])
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def shown(self, figure: Figure) -> str:
        """The mean, the deviation of the runs and the interval, in the units of tables."""
        text = show_figure(figure, self.value(figure), self.sureness.get(figure))
        deviation = self.deviation(figure)
        if deviation is None:
            return text
        value, space, interval = text.partition(" (")
        return f"{value} ± {show_figure(figure, deviation)}{space}{interval}"


@dataclasses.dataclass(frozen=True, eq=False)
class LossList:
    """What the losses achieved on one list."""

    result: ListResult
    """Counts, how intervals were made, and the differences of all pairs of losses; no systems."""
    losses: dict[str, LossFigures]
    """Name of a loss's runs -> its figures."""

    @property
    def num_runs(self) -> int:
        """Of the loss that was trained most often."""
        return max(len(values) for loss in self.losses.values() for values in loss.values.values())

    def is_measurable(self, figure: Figure) -> bool:
        """Whether the list is long enough."""
        return figure.is_measurable(self.result.num_nontargets)


def evaluate_rows(
    rows: Sequence[Table5Row],
    results: Sequence[Sequence[Measured]],
    trial_list: str,
    speaker: Mapping[str, str],
    resampling: Resampling | None,
) -> LossList:
    """Figures, intervals and differences of all rows that were trained, on the same resamples.

    Args:
        rows: of the table.
        results: the runs of each row; empty for one that was not trained.
        trial_list: one of those that the runs were read with.
        speaker: utterance -> speaker of the list.
        resampling: for intervals; None for none.
    """
    measured = {row.run: runs for row, runs in zip(rows, results, strict=True) if runs}
    trials = next(iter(measured.values()))[0].trials
    speakers = trial_speakers(trials, speaker)
    result = evaluate_systems(trials, {}, {}, speakers, resampling=resampling)
    used = None if result.no_intervals else resampling
    flat = [run.scores[trial_list] for runs in measured.values() for run in runs]
    resampled = resample(
        [SortedTrials.of(scores, trials.is_target) for scores in flat],
        speakers,
        num_resamples=used.num_resamples if used else 0,
        seed=used.seed if used else 0,
        progress=f"intervals of Table 5, {trial_list}" if used else None,
    )
    remaining = iter(resampled)
    of_loss = {name: [next(remaining) for _ in runs] for name, runs in measured.items()}
    figures = [figure for figure in wanted_figures() if figure.is_measurable(result.num_nontargets)]
    losses = {
        name: _loss_figures(
            figures, measured[name][0].scores[trial_list], trials.is_target, runs, is_resampled=bool(used)
        )
        for name, runs in of_loss.items()
    }
    comparisons = []
    if used and len(of_loss) > 1:
        comparisons = compare_all(of_loss, [figure for figure in figures if figure.kind.compared >= Compared.STORED])
    return LossList(dataclasses.replace(result, resampling=used, comparisons=comparisons), losses)


def _loss_figures(
    figures: Sequence[Figure],
    scores: NDArray[np.float64],
    is_target: NDArray[np.bool_],
    runs: Sequence[Resamples],
    *,
    is_resampled: bool,
) -> LossFigures:
    """Of one loss; ``scores`` (N,) of its first run."""
    sureness: dict[Figure, Sureness] = {}
    if is_resampled:
        spreads = {figure: spread(figure, runs) for figure in figures}
        sureness = {figure: each.interval() or each.reason for figure, each in spreads.items()}
    values = {figure: [run.estimate(figure) for run in runs] for figure in figures}
    return LossFigures(roc_steps(scores, is_target), values, sureness)
