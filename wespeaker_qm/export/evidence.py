"""What the scores of the headline list tell of a model: thresholds with intervals, a curve, histograms.

Legend: N trials, K points of a curve, B bins.
"""

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.figure import Figure
from wespeaker_qm.evaluate.figures import TAR_AT_FAR, THRESHOLD_AT_FAR, wanted_figures
from wespeaker_qm.evaluate.metrics import evaluate_systems
from wespeaker_qm.evaluate.operating_points import OperatingPoint, RocSteps, trials_to_measure
from wespeaker_qm.evaluate.results import ListResult, Resampling
from wespeaker_qm.export.contents import Curve, Evidence, Histogram, Threshold
from wespeaker_qm.trials.speakers import TrialSpeakers
from wespeaker_qm.trials.table import TrialTable

THRESHOLD_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
"""False-accept rates whose thresholds have intervals."""
_POINTS = 200
"""Of each rate, about evenly on its logarithm."""
_BINS = 60
_SYSTEM = "scores"


def gather_evidence(
    info: CorpusInfo,
    trials: TrialTable,
    scores: NDArray[np.float64],
    speakers: TrialSpeakers | None,
    *,
    num_resamples: int,
    seed: int,
    bandwidth_hz: float | None,
) -> Evidence:
    """Measure the headline list.

    Args:
        info: of the corpus.
        trials: the list.
        scores: (N,) as the model will score.
        speakers: of the trials; None where they are not known, and so no intervals.
        num_resamples: of the speakers, for the intervals; 0 for none.
        seed: of the resamples.
        bandwidth_hz: median highest frequency in the list's recordings, where it is known.

    Raises:
        RecipeError: the list lacks targets or non-targets.
    """
    result = evaluate_systems(
        trials,
        {_SYSTEM: scores},
        {_SYSTEM: wanted_figures(fars=THRESHOLD_FARS, tars=(), p_targets=())},
        speakers,
        resampling=Resampling("speaker", num_resamples, seed) if num_resamples else None,
        progress=f"thresholds {info.headline}",
    )
    return Evidence(
        corpus=info.name,
        trial_list=info.headline,
        caveat=info.caveat,
        num_targets=result.num_targets,
        num_nontargets=result.num_nontargets,
        num_speakers=None if speakers is None else speakers.num_speakers,
        thresholds=[_threshold(result, far) for far in THRESHOLD_FARS],
        curve=curve(result.systems[_SYSTEM].roc),
        histogram=histogram(scores, trials.is_target),
        bandwidth_hz=bandwidth_hz,
    )


def _threshold(result: ListResult, far: float) -> Threshold:
    system = result.systems[_SYSTEM]
    point = system.readings[Figure(TAR_AT_FAR, far)]
    if not isinstance(point, OperatingPoint):
        few = f"it takes {trials_to_measure(far):,} non-target trials, there are {result.num_nontargets:,}"
        return Threshold(far=far, threshold=None, interval=None, no_interval=few, tar=None)
    sureness = system.sureness(Figure(THRESHOLD_AT_FAR, far))
    interval = sureness if isinstance(sureness, tuple) else None
    reason = None if interval else str(sureness or result.no_intervals or "none was asked for")
    return Threshold(far=far, threshold=point.threshold, interval=interval, no_interval=reason, tar=point.tar)


def curve(roc: RocSteps) -> Curve:
    """The operating points nearest to even steps of either rate's logarithm, both ends included."""
    chosen = [np.array([0, len(roc.threshold) - 1])]
    for rate, count in ((roc.far, roc.num_nontargets), (roc.frr[::-1], roc.num_targets)):
        found = np.searchsorted(rate, np.append(0, np.geomspace(1 / count, 1, _POINTS)), side="right") - 1
        chosen.append(found if rate is roc.far else len(rate) - 1 - found)
    rows = np.unique(np.concatenate(chosen))
    return Curve(threshold=roc.threshold[rows].tolist(), far=roc.far[rows].tolist(), frr=roc.frr[rows].tolist())


def histogram(scores: NDArray[np.float64], is_target: NDArray[np.bool_]) -> Histogram:
    """Scores of both kinds of trials in the same bins, from the lowest to the highest."""
    edges = np.histogram_bin_edges(scores, _BINS)
    counts = [np.histogram(scores[chosen], edges)[0].tolist() for chosen in (is_target, ~is_target)]
    return Histogram(edges=edges.tolist(), target=counts[0], nontarget=counts[1])
