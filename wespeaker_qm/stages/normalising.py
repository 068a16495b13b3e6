"""Stage 6: normalise the scores of a run against a cohort of training speakers."""

import logging
from typing import Literal

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.cohort import check_cohort_apart, cohort_sources, has_cohort, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.normalisation import TOP_N, cohort_statistics, normalised_scores, quality_measures
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.variants import CALIBRATED, NORMALISED, VARIANTS, discard_variant
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS

Method = Literal["snorm", "asnorm"]

_WHERE = "neither of the corpus (train in corpus.yaml) nor with the model (stage 6 of its training makes them)"

logger = logging.getLogger(__name__)


@reads_data
def normalise(*, data: AnyPath, run: AnyPath, method: Method = "asnorm", top_n: int = TOP_N) -> None:
    """Write ``scores/<list>.<method>.score`` of all lists, and the cohort beside the training embeddings.

    The cohort are the training speakers of the corpus, or those that came with a finished model; where there are none,
    a warning says so and there are no normalised scores.

    Args:
        data: a prepared corpus.
        run: a scored run.
        method: ``snorm`` measures a score by all speakers of the cohort, ``asnorm`` by the nearest ones.
        top_n: of asnorm, how many of the nearest cohort speakers count, at least 2; all, where there are fewer.

    Raises:
        RecipeError: scores or embeddings are missing, or not of what is there now; the cohort shares speakers or
            recordings with the trials; files that no stage made.
    """
    data, run = DataFolder(data), RunFolder(run)
    if method not in NORMALISED:
        raise RecipeError(f"method: found {method!r}, expected one of {', '.join(NORMALISED)}")
    info = CorpusInfo.load(data.info)
    refuse_stale(run, data, info)
    if not has_cohort(run, info):
        logger.warning("stage normalise: skipped, because there are no training speakers to normalise by: %s", _WHERE)
        for variant in VARIANTS:
            discard_variant(run, info.trials, variant)
        return
    num_nearest = top_n if method == "asnorm" else None
    sources = [f"scores/{run.scores(name).name}" for name in info.trials]
    sources += [f"data/trials/{name}" for name in info.trials]
    sources += [f"embeddings/{folder}" for folder in info.trials.values()]
    sources += [f"data/{folder}/utt2spk" for folder in info.trials.values()]
    sources += ["embeddings/mean_vec.npy", *cohort_sources(run, info)]
    inputs = {"top_n": num_nearest, **digests(sources, run, data)}
    outputs = {name: run.scores(name, method) for name in info.trials}
    marker = DoneMarker(
        run.marker(method), inputs, outputs.values(), version=STAGE_VERSIONS["normalise"], checks_outputs=True
    )
    with stage("normalise", marker, others=[cache_path(path) for path in outputs.values()]) as is_due:
        if not is_due:
            if (recorded_inputs(run.marker(CALIBRATED)) or {}).get("scores") != method:
                discard_variant(run, info.trials, CALIBRATED)  # of the other method
            return
        for folder in dict.fromkeys(info.trials.values()):
            check_cohort_apart(data, run, info, data.set(folder))
        cohort = load_cohort(data, run, info)
        mean = load_mean(run.mean_xvector)
        count = 0
        for name, output in outputs.items():
            trials = read_trial_table(data.trials(name))
            scores = read_scores(run.scores(name), trials).scores
            directions = trial_directions(trials, run.xvectors(info.trials[name]), mean)
            statistics = cohort_statistics(directions, cohort, num_nearest, progress=f"{method} {name}")
            write_scores(
                output,
                trials,
                normalised_scores(trials, scores, statistics),
                quality_measures(trials, directions, statistics),
            )
            count += len(trials)
        told = counted(count, "score", "scores")
        logger.info("normalised %s of %s (%s) -> %s", told, ", ".join(outputs), method, run.all_scores)
        discard_variant(run, info.trials, CALIBRATED)  # made of older scores
