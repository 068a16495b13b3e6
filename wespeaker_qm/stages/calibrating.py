"""Stage 7: turn the scores of a run into log-likelihood ratios."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.score.calibration import Calibration, quality
from wespeaker_qm.score.calibration_check import EerCheck, check_eer
from wespeaker_qm.score.calibration_file import load_calibration, save_calibration
from wespeaker_qm.score.calibration_fit import CalibrationError, choose, fit
from wespeaker_qm.score.cohort import check_apart, check_cohort_apart, cohort_sources, has_cohort, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.normalisation import cohort_statistics, normalised_scores, quality_measures
from wespeaker_qm.score.upstream import digests, refuse_stale, stale
from wespeaker_qm.stages.normalising import Method
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.trials.variants import CALIBRATED, NORMALISED, discard_variant, remove
from wespeaker_qm.utils.calls import AnyPath
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError, counted
from wespeaker_qm.utils.layout import DataFolder, RunFolder, SetFolder
from wespeaker_qm.utils.stage import reads_data, stage
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

_OF_A_SET = (("audio/", ""), ("data/", "/utt2spk"))
"""Before and behind a set's name: what of it the calibration reads."""


@reads_data
def calibrate(
    *,
    data: AnyPath,
    run: AnyPath,
    scores: Method = "asnorm",
    top_n: int | None = None,
    with_quality: bool = True,
) -> None:
    """Fit on the corpus's validation list, apply to its trial lists: ``scores/<list>.calibrated.score``.

    Where there is no such list, the calibration that came with a finished model is applied. Where there is neither, or
    the list teaches nothing, a warning says so and there are no calibrated scores.

    Args:
        data: a prepared corpus.
        run: a normalised run.
        scores: which scores to calibrate.
        top_n: how many of the cohort's speakers counted in stage 6; None takes what that recorded.
        with_quality: False calibrates by the score alone, without durations, embeddings' lengths and cohort means.

    Raises:
        RecipeError: scores or embeddings are missing, or not of what is there now; sets that must be apart share
            speakers or recordings; files that no stage made.
    """
    data, run = DataFolder(data), RunFolder(run)
    if scores not in NORMALISED:
        raise RecipeError(f"scores: found {scores!r}, expected one of {', '.join(NORMALISED)}")
    info = CorpusInfo.load(data.info)
    if reason := _nothing_to_calibrate_by(data, run, info, scores):
        logger.warning("stage calibrate: skipped, because %s", reason)
        discard_variant(run, info.trials, CALIBRATED)
        return
    refuse_stale(run, data, info)
    num_nearest = _recorded_top_n(data, run, scores, top_n)
    lists = dict(info.trials)
    if info.validation is not None:
        lists |= {info.validation: info.validation}
    sources = [f"scores/{run.scores(name, scores).name}" for name in info.trials]
    sources += [f"data/trials/{name}" for name in lists]
    sources += [f"{kind}{folder}{file}" for folder in lists.values() for kind, file in _OF_A_SET]
    if info.validation is None:
        sources += ["models/calibration.json"]
    else:
        sources += [f"embeddings/{info.validation}", "embeddings/mean_vec.npy", *cohort_sources(run, info)]
    settings = {"scores": scores, "top_n": num_nearest, "quality": with_quality}
    outputs = [run.scores(name, CALIBRATED) for name in info.trials]
    marker = DoneMarker(
        run.marker(CALIBRATED),
        {**settings, **digests(sources, run, data)},
        [run.calibration, *outputs],
        version=STAGE_VERSIONS["calibrate"],
        checks_outputs=True,
    )
    try:
        with stage("calibrate", marker, others=[cache_path(path) for path in outputs]) as is_due:
            if not is_due:
                return
            for path in outputs:  # of another model, should this one fail
                remove(path)
            if info.validation is None:
                model, _ = load_calibration(run.adopted_calibration)
            else:
                model = _fit(data, run, info, info.validation, num_nearest, with_quality)
            checks = {name: _apply(model, data, run, info, name, scores) for name in info.trials}
            save_calibration(run.calibration, model, checks)
            logger.info("calibrated the scores of %s -> %s", ", ".join(checks), run.all_scores)
    except CalibrationError as error:
        logger.warning("stage calibrate: skipped, because %s", error)


def _nothing_to_calibrate_by(data: DataFolder, run: RunFolder, info: CorpusInfo, scores: Method) -> str | None:
    """Why there can be no calibrated scores; None where there can."""
    if not has_cohort(run, info):
        return "there are no normalised scores, for want of training speakers (stage 6)"
    if info.validation is not None:
        return None
    no_list = (
        f"the corpus has no list to calibrate on; `validation` in {data.info} names a list of other speakers than "
        "those of the trials"
    )
    adopted = recorded_inputs(run.marker("adopt")) or {}
    if adopted.get("calibration") is None:
        return no_list
    made_with = {"scores": scores, "top_n": (recorded_inputs(run.marker(scores)) or {}).get("top_n")}
    fitted_to = {name: adopted[f"calibrated {name}"] for name in made_with}
    if made_with != fitted_to:
        return f"{no_list}; and that of the model is for {fitted_to}, found {made_with}"
    return None


def _recorded_top_n(data: DataFolder, run: RunFolder, scores: Method, asked: int | None) -> int | None:
    """How many of the cohort the normalised scores took; None for all.

    Raises:
        RecipeError: there are no such scores, they are not made of what is there now, or took another number than
            ``asked``.
    """
    reasons = stale(scores, run, data)
    if reasons is None:
        reasons = ["there is no record of it: it has not been run, or an earlier version did"]
    top_n: int | None = (recorded_inputs(run.marker(scores)) or {}).get("top_n")
    if not reasons and scores == "asnorm" and asked not in (None, top_n):
        reasons = [f"it took --top_n {top_n}, found --top_n {asked}"]
    if reasons:
        raise RecipeError(
            f"{run}: wespeaker-qm normalise --method {scores} must run before the calibration: "
            f"{'; '.join(reasons)} (run.sh --stage 6)"
        )
    return top_n


def _fit(
    data: DataFolder, run: RunFolder, info: CorpusInfo, validation: str, top_n: int | None, with_quality: bool
) -> Calibration:
    """The calibration that the list ``validation`` teaches, of other speakers than the cohort's and the trials'.

    Raises:
        CalibrationError: it teaches nothing.
    """
    calibration_set = data.set(validation)
    check_cohort_apart(data, run, info, calibration_set, "the calibration list")
    for folder in dict.fromkeys(info.trials.values()):
        check_apart(calibration_set, data.set(folder), "the calibration list")
    trials = read_trial_table(data.trials(validation))
    directions = trial_directions(trials, run.xvectors(validation), load_mean(run.mean_xvector))
    statistics = cohort_statistics(directions, load_cohort(data, run, info), top_n)
    scores = normalised_scores(trials, directions.cosines(trials.enrolment, trials.test), statistics)
    q = quality(_of_both(trials, _durations(calibration_set)), quality_measures(trials, directions, statistics))
    usable = q if with_quality else q[:, :0]
    speakers = trial_speakers(trials, read_map(calibration_set.utt2spk))
    choice = choose(scores, usable, trials.is_target, speakers)
    model = fit(scores, q[:, : choice.num_measures], trials.is_target)
    logger.info(
        "Cllr on held-out speakers of %s by number of quality measures: %s; used: %s",
        validation,
        ", ".join(f"{count}: {value:.3f}" for count, value in choice.cllr.items()),
        ", ".join(model.measures) or "none, the score alone",
    )
    llr = model.apply(scores, q)
    of = counted(len(trials), "trial", "trials")
    logger.info("calibrated on %s of %s: Cllr %.3f there", of, validation, cllr(llr, trials.is_target))
    _warn(validation, check_eer(model, scores, llr, q, trials.is_target))
    return model


def _apply(
    model: Calibration, data: DataFolder, run: RunFolder, info: CorpusInfo, name: str, variant: Method
) -> EerCheck:
    """Write the log-likelihood ratios of a trial list; what they did to its EER."""
    trials = read_trial_table(data.trials(name))
    _, scores, measures = read_scores(run.scores(name, variant), trials)
    if measures is None and len(model.measures) > 1:
        raise RecipeError(
            f"{run.scores(name, variant)}: no quality measures, expected 8 columns; normalise again (stage 6)"
        )
    q = quality(_of_both(trials, _durations(data.set(info.trials[name]))), measures)
    llr = model.apply(scores, q)
    write_scores(run.scores(name, CALIBRATED), trials, llr)
    check = check_eer(model, scores, llr, q, trials.is_target)
    _warn(name, check)
    return check


def _warn(name: str, check: EerCheck) -> None:
    for note in check.notes():
        logger.warning("list %s: %s", name, note)


def _durations(folder: SetFolder) -> Mapping[str, float]:
    """Utterance -> seconds, of a packed set."""
    reader = ShardReader(folder.shard_list)
    return dict(zip(reader.keys, (reader.num_samples / reader.sample_rate).tolist(), strict=True))


def _of_both(trials: TrialTable, duration_s: Mapping[str, float]) -> NDArray[np.float64]:
    """(N, 2) seconds of both sides."""
    seconds = np.array([duration_s[name] for name in trials.utterances])
    return np.stack([seconds[trials.enrolment], seconds[trials.test]], axis=1)
