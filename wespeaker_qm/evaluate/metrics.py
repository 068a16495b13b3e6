"""Every figure of every trial list and every system, with intervals, and their JSON form ``metrics.json``."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES, FigureSet, Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.comparison import LEVEL, Comparison, compare_all
from wespeaker_qm.evaluate.evidence import list_reason
from wespeaker_qm.evaluate.intervals import CONFIDENCE, Band, band, spread
from wespeaker_qm.evaluate.log_likelihood import act_dcf, cllr, min_cllr
from wespeaker_qm.evaluate.operating_points import (
    EqualErrorRate,
    MinDcf,
    OperatingPoint,
    RocSteps,
    convex_hull,
    equal_error_rate,
    far_at_tar,
    far_name,
    is_measurable,
    min_dcf,
    number_name,
    roc_steps,
    tar_at_far,
)
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import TrialSpeakers, effective_speakers, trial_speakers
from wespeaker_qm.trials.table import TrialTable

NOT_MEASURABLE = "not measurable"
BAND_FARS: NDArray[np.float64] = ndtr(np.linspace(ndtri(1e-5), ndtri(0.6), 60))
"""False-accept rates at which DET bands are drawn."""

Interval = tuple[float, float]
Sureness = Interval | str | None
"""An interval, the reason why there is none, or nothing where none was asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class SystemResult:
    """The figures of one system on one trial list."""

    roc: RocSteps
    """All operating points."""
    eer: EqualErrorRate
    """Equal error rate, and its threshold."""
    eer_hull: float
    """Equal error rate on the convex hull of the ROC curve."""
    min_cllr: float
    min_dcf: dict[float, MinDcf]
    """p_target -> smallest normalised detection cost."""
    tar_at_far: dict[float, OperatingPoint | None]
    """FAR -> the best operating point; None where it is not measurable."""
    far_at_tar: dict[float, OperatingPoint]
    """TAR -> the operating point with the smallest FAR."""
    cllr: float | None
    """None for scores that are not log-likelihood ratios."""
    act_dcf: dict[float, float] | None
    """p_target -> normalised detection cost at the Bayes threshold; None likewise."""
    intervals: dict[str, Interval]
    """Figure, by the name that :class:`FigureSet` gives it -> its interval, where it has one."""
    reasons: dict[str, str]
    """Figure -> why it has no interval, where one was asked for."""
    band: Band | None
    """Of the DET curve; None where none could be had."""

    def sureness(self, figure: str) -> Sureness:
        """The interval of a figure, or why it has none."""
        return self.intervals.get(figure, self.reasons.get(figure))

    def to_json(self) -> dict[str, Any]:
        """The figures, not the curve, as plain values; a figure whose interval is null stands in ``no_interval``."""
        content: dict[str, Any] = {
            "eer": self.eer.rate,
            "eer_threshold": self.eer.threshold,
            "eer_hull": self.eer_hull,
            "min_cllr": self.min_cllr,
            "min_dcf": {number_name(p_target): result._asdict() for p_target, result in self.min_dcf.items()},
            "tar_at_far": {
                far_name(far): None if point is None else point._asdict() for far, point in self.tar_at_far.items()
            },
            "far_at_tar": {number_name(tar): point._asdict() for tar, point in self.far_at_tar.items()},
        }
        if self.cllr is not None and self.act_dcf is not None:
            content["cllr"] = self.cllr
            content["act_dcf"] = {number_name(p_target): cost for p_target, cost in self.act_dcf.items()}
        content["intervals"] = {name: list(interval) for name, interval in self.intervals.items()}
        content["intervals"] |= dict.fromkeys(self.reasons)
        content["no_interval"] = self.reasons
        if self.band is not None:
            content["band"] = {edge: np.round(values, 7).tolist() for edge, values in self.band._asdict().items()}
        return content


class Resampling(NamedTuple):
    """How intervals were made."""

    unit: str
    """``speaker``, or ``trial``."""
    num_resamples: int
    seed: int
    confidence: float = CONFIDENCE


@dataclasses.dataclass(frozen=True, eq=False)
class ListResult:
    """The figures of all systems on one trial list."""

    num_targets: int
    num_nontargets: int
    num_utterances: int
    num_speakers: int | None
    """None where it is not known who speaks."""
    systems: dict[str, SystemResult]
    """System name -> its figures, the trained system first."""
    resampling: Resampling | None
    """None where there are no intervals."""
    no_intervals: str | None
    """Why the list supports none, where they were asked for."""
    comparisons: list[Comparison]
    """Of all pairs of systems; empty without intervals."""

    def to_json(self) -> dict[str, Any]:
        """Counts and figures as plain values."""
        return {
            "num_targets": self.num_targets,
            "num_nontargets": self.num_nontargets,
            "num_utterances": self.num_utterances,
            "num_speakers": self.num_speakers,
            "systems": {name: system.to_json() for name, system in self.systems.items()},
            "resampling": None if self.resampling is None else self.resampling._asdict(),
            "no_intervals": self.no_intervals,
            "comparisons": [dataclasses.asdict(comparison) for comparison in self.comparisons],
        }


def system_result(
    scores: NDArray[np.float64], is_target: NDArray[np.bool_], wanted: FigureSet, resamples: Resamples | None = None
) -> SystemResult:
    """All figures of one system.

    Args:
        scores: (N,).
        is_target: (N,).
        wanted: which figures.
        resamples: of the same; None for no intervals.

    Raises:
        RecipeError: as :func:`wespeaker_qm.evaluate.operating_points.roc_steps`.
    """
    roc = roc_steps(scores, is_target)
    hull = convex_hull(roc)
    intervals: dict[str, Interval] = {}
    reasons: dict[str, str] = {}
    if resamples is not None:
        for name in resamples.names:
            if "@FAR" in name and not is_measurable(float(name.split()[1]), roc.num_nontargets):
                continue
            each = spread(name, [resamples])
            interval = each.interval()
            if interval is None:
                reasons[name] = str(each.reason)
            else:
                intervals[name] = interval
    return SystemResult(
        roc=roc,
        eer=equal_error_rate(roc),
        eer_hull=equal_error_rate(hull).rate,
        min_cllr=min_cllr(hull),
        min_dcf={p_target: min_dcf(roc, p_target) for p_target in wanted.p_targets},
        tar_at_far={far: tar_at_far(roc, far) for far in wanted.fars},
        far_at_tar={tar: far_at_tar(roc, tar) for tar in wanted.tars},
        cllr=cllr(scores, is_target) if wanted.is_llr else None,
        act_dcf={p_target: act_dcf(roc, p_target) for p_target in wanted.p_targets} if wanted.is_llr else None,
        intervals=intervals,
        reasons=reasons,
        band=None if resamples is None else band(resamples),
    )


def evaluate_systems(
    trials: TrialTable,
    scores: Mapping[str, NDArray[np.float64]],
    wanted: Mapping[str, FigureSet],
    speakers: TrialSpeakers | None,
    *,
    resampling: Resampling | None,
    progress: str | None = None,
) -> ListResult:
    """Evaluate all systems on one trial list, on the same resamples.

    Args:
        trials: the list.
        scores: system name -> (N,).
        wanted: system name -> which figures.
        speakers: of the trials, where they are known.
        resampling: None for no intervals; lists of too few speakers get none either
            (:mod:`wespeaker_qm.evaluate.evidence`).
        progress: what the progress bar says; None shows none.

    Raises:
        RecipeError: the list lacks targets or non-targets, or resamples do.
    """
    no_intervals = None
    if resampling is not None and resampling.unit == "speaker" and speakers is not None:
        no_intervals = list_reason(effective_speakers(speakers, trials.is_target))
        if no_intervals is not None:
            resampling = None
    runs: dict[str, Resamples] = {}
    if resampling is not None and resampling.num_resamples > 0 and scores:
        sorted_trials = [SortedTrials.of(values, trials.is_target, wanted[name]) for name, values in scores.items()]
        results = resample(
            sorted_trials,
            speakers if resampling.unit == "speaker" else None,
            num_resamples=resampling.num_resamples,
            seed=resampling.seed,
            far_grid=BAND_FARS,
            progress=progress,
        )
        runs = dict(zip(scores, results, strict=True))
    systems = {
        name: system_result(values, trials.is_target, wanted[name], runs.get(name)) for name, values in scores.items()
    }
    num_targets = int(trials.is_target.sum())
    comparisons: list[Comparison] = []
    if len(runs) > 1:
        figures = compared_figures(next(iter(systems.values())))
        comparisons = compare_all({name: [run] for name, run in runs.items()}, figures)
    return ListResult(
        num_targets=num_targets,
        num_nontargets=len(trials) - num_targets,
        num_utterances=len(trials.utterances),
        num_speakers=None if speakers is None else speakers.num_speakers,
        systems=systems,
        resampling=resampling if runs else None,
        no_intervals=no_intervals,
        comparisons=comparisons,
    )


def compared_figures(system: SystemResult) -> list[str]:
    """The figures in which systems are compared: all that were measured and can be compared at all."""
    figures = [*system.intervals, *system.reasons]
    return [name for name in figures if not name.startswith(("threshold@", "Cllr", "actDCF", "EER hull"))]


def evaluate_list(
    trials: TrialTable,
    score_files: Mapping[str, Path],
    speaker: Mapping[str, str],
    *,
    llr_systems: frozenset[str] = frozenset(),
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    progress: str | None = None,
) -> ListResult:
    """Evaluate all systems on one trial list of a corpus.

    Args:
        trials: the list itself.
        score_files: system name -> its scores of exactly these trials.
        speaker: utterance -> speaker.
        llr_systems: those whose scores are log-likelihood ratios.
        num_resamples: of the speakers, for intervals; 0 for none.
        seed: of the resamples.
        progress: what the progress bar says; None shows none.

    Raises:
        RecipeError: a score file is broken or holds other trials than the list, an utterance has no speaker, labels
            disagree with the speakers, or the list lacks targets or non-targets.
    """
    speakers = trial_speakers(trials, speaker)
    scores = {name: read_scores(path, trials).scores for name, path in score_files.items()}
    wanted = {name: FigureSet(is_llr=name in llr_systems) for name in scores}
    resampling = Resampling("speaker", num_resamples, seed) if num_resamples else None
    return evaluate_systems(trials, scores, wanted, speakers, resampling=resampling, progress=progress)


def per_cent(rate: float, digits: int = 2) -> str:
    """A fraction as a percentage for tables.

    >>> per_cent(0.123456)
    '12.35'
    """
    return f"{100 * rate:.{digits}f}"


def with_sureness(show: Callable[[float], str], value: float, sureness: Sureness) -> str:
    """A figure as ``show`` writes it, with its interval or with the reason why there is none.

    >>> with_sureness(str, 0.5, (0.25, 0.75)), with_sureness(str, 0.5, "3 false accepts"), with_sureness(str, 0.5, None)
    ('0.5 (0.25 to 0.75)', '0.5 (no interval: 3 false accepts)', '0.5')
    """
    if sureness is None:
        return show(value)
    if isinstance(sureness, str):
        return f"{show(value)} (no interval: {sureness})"
    return f"{show(value)} ({show(sureness[0])} to {show(sureness[1])})"


def show_per_cent(rate: float, sureness: Sureness = None, digits: int = 2) -> str:
    """A fraction as a percentage, with its interval if there is one.

    >>> show_per_cent(0.1234, (0.1, 0.15))
    '12.34 (10.00 to 15.00)'
    """
    return with_sureness(lambda value: per_cent(value, digits), rate, sureness)


def show_cost(cost: float, sureness: Sureness = None) -> str:
    """A cost to three digits, with its interval if there is one.

    >>> show_cost(0.12345, (0.1, 0.15))
    '0.123 (0.100 to 0.150)'
    """
    return with_sureness(lambda value: f"{value:.3f}", cost, sureness)


def is_cost(figure: str) -> bool:
    """Whether a figure is a cost, and not a rate.

    >>> is_cost("minDCF 0.01"), is_cost("EER")
    (True, False)
    """
    return figure.startswith(("minDCF", "minCllr", "actDCF", "Cllr"))


def show_figure(figure: str, value: float, sureness: Sureness = None) -> str:
    """The figure of that name, as a cost or in per cent, with its interval if there is one."""
    if is_cost(figure):
        return show_cost(value, sureness)
    return show_per_cent(value, sureness, digits=3 if figure.startswith("FAR@") else 2)


def show_tar(point: OperatingPoint | None, sureness: Sureness = None) -> str:
    """TAR in per cent with its interval, or that it is not measurable.

    >>> show_tar(None)
    'not measurable'
    """
    return NOT_MEASURABLE if point is None else show_per_cent(point.tar, sureness)


def figures_table(systems: Mapping[str, SystemResult]) -> str:
    """A line a figure, a column a system, in Markdown; intervals in brackets, rates in per cent."""
    columns = [_cells(system) for system in systems.values()]
    names = dict.fromkeys(name for cells in columns for name in cells)
    return markdown_table(["figure", *systems], [[name, *(cells.get(name, "") for cells in columns)] for name in names])


def _cells(system: SystemResult) -> dict[str, str]:
    """Name of a line -> what stands in it."""
    interval = system.sureness
    cells = {
        "EER %": show_per_cent(system.eer.rate, interval("EER")),
        "EER % on the convex hull": show_per_cent(system.eer_hull, interval("EER hull")),
    }
    for far, point in system.tar_at_far.items():
        cells[f"TAR % at FAR {far_name(far)}"] = show_tar(point, interval(f"TAR@FAR {far_name(far)}"))
    for tar, best in system.far_at_tar.items():
        cells[f"FAR % at TAR {number_name(tar)}"] = show_figure(
            "FAR@TAR", best.far, interval(f"FAR@TAR {number_name(tar)}")
        )
    for p_target, result in system.min_dcf.items():
        cells[f"minDCF {number_name(p_target)}"] = show_cost(result.cost, interval(f"minDCF {number_name(p_target)}"))
    cells["minCllr"] = show_cost(system.min_cllr, interval("minCllr"))
    if system.cllr is not None and system.act_dcf is not None:
        cells["Cllr"] = show_cost(system.cllr, interval("Cllr"))
        for p_target, cost in system.act_dcf.items():
            cells[f"actDCF {number_name(p_target)}"] = show_cost(cost, interval(f"actDCF {number_name(p_target)}"))
    return cells


def comparison_table(comparisons: Sequence[Comparison], label: Callable[[str], str] = str) -> str:
    """A line a pair of systems and figure, in Markdown; rates in per cent."""
    rows = []
    for each in comparisons:
        factor, digits = (1, 4) if is_cost(each.figure) else (100, 2)
        if each.low is None or each.high is None:
            interval = f"none: {each.reason}"
        else:
            interval = " to ".join(f"{factor * end:+.{digits}f}" for end in (each.low, each.high))
        rows.append(
            [
                f"{each.figure}: {label(each.two)} less {label(each.one)}",
                f"{factor * each.difference:+.{digits}f}",
                interval,
                show_p_value(each.p_value),
                show_p_value(each.p_holm),
            ]
        )
    return markdown_table(["difference", "estimate", "95 % interval", "p", "p, all pairs (Holm)"], rows)


def show_p_value(p_value: float | None) -> str:
    """A p-value to three decimals, more where fewer would put it on the other side of ``LEVEL``.

    >>> show_p_value(0.0123), show_p_value(1e-5), show_p_value(0.04996), show_p_value(0.05), show_p_value(None)
    ('0.012', '< 0.001', '0.04996', '0.050', 'none')
    """
    if p_value is None:
        return "none"
    if p_value < 0.001:
        return "< 0.001"
    digits = 3
    while (float(text := f"{p_value:.{digits}f}") < LEVEL) != (p_value < LEVEL):
        digits += 1
    return text


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it also reads well as text; the first column left, the others right.

    >>> print(markdown_table(["system", "EER %"], [["a", "13.05"]]))
    | system | EER % |
    |:-------|------:|
    | a      | 13.05 |
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) for width in widths]
    lines.insert(1, f"|:{rule[0]}|{''.join(f'{dashes}:|' for dashes in rule[1:])}")
    return "\n".join(lines)
