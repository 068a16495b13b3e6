"""Every figure of every system on a trial list, with intervals and comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from wespeaker_qm.evaluate.bootstrap import NUM_RESAMPLES, Resamples, SortedTrials, resample
from wespeaker_qm.evaluate.comparison import Comparison, compare_all
from wespeaker_qm.evaluate.evidence import list_reason
from wespeaker_qm.evaluate.figure import Compared, Curves, Figure
from wespeaker_qm.evaluate.figures import wanted_figures
from wespeaker_qm.evaluate.intervals import band, spread
from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.operating_points import convex_hull, roc_steps
from wespeaker_qm.evaluate.results import Interval, ListResult, Resampling, SystemResult
from wespeaker_qm.trials.score_files import read_scores
from wespeaker_qm.trials.speakers import TrialSpeakers, effective_speakers, trial_speakers
from wespeaker_qm.trials.table import TrialTable

BAND_FARS: NDArray[np.float64] = ndtr(np.linspace(ndtri(1e-5), ndtri(0.6), 60))
"""False-accept rates at which DET bands are drawn."""


def system_result(
    scores: NDArray[np.float64],
    is_target: NDArray[np.bool_],
    wanted: Sequence[Figure],
    resamples: Resamples | None = None,
) -> SystemResult:
    """All figures of one system.

    Args:
        scores: (N,).
        is_target: (N,).
        wanted: which figures.
        resamples: of the same figures; None for no intervals.

    Raises:
        RecipeError: as :func:`wespeaker_qm.evaluate.operating_points.roc_steps`.
    """
    roc = roc_steps(scores, is_target)
    needs_llr = any(figure.kind.needs_llr for figure in wanted)
    curves = Curves(roc, convex_hull(roc), cost_points=roc, cllr=cllr(scores, is_target) if needs_llr else None)
    measurable = [figure for figure in wanted if figure.is_measurable(roc.num_nontargets)]
    intervals: dict[Figure, Interval] = {}
    reasons: dict[Figure, str] = {}
    if resamples is not None:
        for figure in measurable:
            each = spread(figure, [resamples])
            interval = each.interval()
            if interval is None:
                reasons[figure] = str(each.reason)
            else:
                intervals[figure] = interval
    return SystemResult(
        roc=roc,
        readings={figure: figure.read(curves) if figure in measurable else None for figure in wanted},
        intervals=intervals,
        reasons=reasons,
        band=None if resamples is None else band(resamples),
    )


def evaluate_systems(
    trials: TrialTable,
    scores: Mapping[str, NDArray[np.float64]],
    wanted: Mapping[str, Sequence[Figure]],
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
        resampling: None for no intervals; lists of unknown or of too few speakers get none over speakers either
            (:mod:`wespeaker_qm.evaluate.evidence`).
        progress: what the progress bar says; None shows none.

    Raises:
        RecipeError: the list lacks targets or non-targets, or resamples do.
    """
    no_intervals = None
    if resampling is not None and resampling.unit == "speaker":
        if speakers is None:
            no_intervals = "it is not known who speaks"
        else:
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


def compared_figures(system: SystemResult) -> list[Figure]:
    """The figures in which systems are compared: of those that were measured, the ones with an interval first."""
    figures = [*system.intervals, *system.reasons]
    return [figure for figure in figures if figure.kind.compared >= Compared.STORED]


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
    wanted = {name: wanted_figures(is_llr=name in llr_systems) for name in scores}
    resampling = Resampling("speaker", num_resamples, seed) if num_resamples else None
    return evaluate_systems(trials, scores, wanted, speakers, resampling=resampling, progress=progress)
