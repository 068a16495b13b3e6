"""Stage 7: turn the scores of a run into log-likelihood ratios."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.packing.shards import ShardReader
from wespeaker_qm.score.calibration import VERSION, CalibrationError, EerCheck, check_eer, choose, fit, quality, save
from wespeaker_qm.score.cohort import check_apart, cohort_sources, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.normalisation import cohort_statistics, normalise, quality_measures
from wespeaker_qm.score.upstream import digests, refuse_stale, stale
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.score_paths import CALIBRATED, NORMALISED, discard_variant, remove, score_path
from wespeaker_qm.trials.speakers import trial_speakers
from wespeaker_qm.trials.table import TrialTable
from wespeaker_qm.utils.arguments import true_or_false, whole_number
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

_OF_A_SET = (("audio/", ""), ("data/", "/utt2spk"))
"""Before and behind a set's name: what of it the calibration reads."""

HELP = "calibrate the scores to log-likelihood ratios, on trials of other speakers (stage 7)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="normalised experiment; scores/<list>.calibrated.score and scores/calibration.json go here",
    )
    parser.add_argument(
        "--scores", choices=NORMALISED, default="asnorm", help="which scores to calibrate (default: asnorm)"
    )
    parser.add_argument("--top_n", type=whole_number(2), metavar="N", help="of stage 6 (default: what that took)")
    parser.add_argument(
        "--quality",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: by the score alone, without durations, embeddings' lengths and cohort means (default: true)",
    )


def run(args: argparse.Namespace) -> None:
    """Fit on the corpus's validation list, apply to its trial lists, unless nothing changed since the last run."""
    info = CorpusInfo.load(args.data)
    if info.validation is None:
        logger.warning(
            "stage calibrate: skipped, because the corpus has no list to calibrate on; `validation` in %s names a list "
            "of other speakers than those of the trials",
            args.data / "corpus.yaml",
        )
        discard_variant(args.exp_dir, info.trials, CALIBRATED)
        return
    refuse_stale(args.exp_dir, args.data, info)
    embeddings = args.exp_dir / "embeddings"
    lists = {**info.trials, info.validation: info.validation}
    trials_paths = {name: args.data / "trials" / name for name in lists}
    scored = {name: score_path(args.exp_dir, name, args.scores) for name in info.trials}
    outputs = {name: score_path(args.exp_dir, name, CALIBRATED) for name in info.trials}
    model_path = args.exp_dir / "scores" / "calibration.json"
    mean_path = embeddings / "mean_vec.npy"
    top_n = _top_n(args)
    sources = [f"scores/{path.name}" for path in scored.values()] + [f"data/trials/{name}" for name in lists]
    sources += [f"{kind}{folder}{file}" for folder in lists.values() for kind, file in _OF_A_SET]
    sources += [f"embeddings/{info.validation}", "embeddings/mean_vec.npy", *cohort_sources(info)]
    settings = {"scores": args.scores, "top_n": top_n, "quality": args.quality}
    marker = DoneMarker(
        args.exp_dir / ".done" / CALIBRATED,
        {**settings, **digests(sources, args.exp_dir, args.data)},
        [model_path, *outputs.values()],
        version=VERSION,
        checks_outputs=True,
    )
    if not begin(marker, "calibrate", others=[cache_path(path) for path in outputs.values()]):
        return
    for path in outputs.values():  # of another model, should this one fail
        remove(path)

    calibration_speakers = read_map(args.data / info.validation / "utt2spk")
    calibration_set = args.data / info.validation
    check_apart(args.data / info.train, calibration_set, "the cohort", "the calibration list")
    for folder in dict.fromkeys(info.trials.values()):
        check_apart(calibration_set, args.data / folder, "the calibration list")
    trials = read_trial_table(trials_paths[info.validation])
    directions = trial_directions(trials, embeddings / info.validation / "xvector.scp", load_mean(mean_path))
    statistics = cohort_statistics(directions, load_cohort(args.data, args.exp_dir, info), top_n)
    scores = normalise(trials, directions.cosines(trials.enrolment, trials.test), statistics)
    durations = {folder: _durations(args.data / folder) for folder in dict.fromkeys(lists.values())}
    seconds = _of_both(trials, durations[info.validation])
    q = quality(seconds, quality_measures(trials, directions, statistics))
    usable = q if args.quality else q[:, :0]
    try:
        choice = choose(scores, usable, trials.is_target, trial_speakers(trials, calibration_speakers))
        model = fit(scores, q[:, : choice.num_measures], trials.is_target)
    except CalibrationError as error:
        logger.warning("stage calibrate: skipped, because %s", error)
        return
    logger.info(
        "Cllr on held-out speakers of %s by number of quality measures: %s; used: %s",
        info.validation,
        ", ".join(f"{count}: {value:.3f}" for count, value in choice.cllr.items()),
        ", ".join(model.measures) or "none, the score alone",
    )
    llr = model.apply(scores, q)
    logger.info(
        "calibrated on %d trials of %s: Cllr %.3f there", len(trials), info.validation, cllr(llr, trials.is_target)
    )
    _warn(info.validation, check_eer(model, scores, llr, q, trials.is_target))
    checks = {}
    for name, folder in info.trials.items():
        trials = read_trial_table(trials_paths[name])
        _, scores, measures = read_scores(scored[name], trials)
        if measures is None and choice.num_measures > 1:
            raise RecipeError(f"{scored[name]}: no quality measures, expected 8 columns; normalise again (stage 6)")
        q = quality(_of_both(trials, durations[folder]), measures)
        llr = model.apply(scores, q)
        write_scores(outputs[name], trials, llr)
        checks[name] = check_eer(model, scores, llr, q, trials.is_target)
        logger.info("calibrated %d scores of %s -> %s", len(trials), name, outputs[name])
        _warn(name, checks[name])
    save(model_path, model, checks)
    finish(marker)


def _top_n(args: argparse.Namespace) -> int | None:
    """How many of the cohort the normalised scores took; None for all.

    Raises:
        RecipeError: there are no such scores, they are not made of what is there now, or took another number than
            ``--top_n``.
    """
    reasons = stale(args.scores, args.exp_dir, args.data)
    if reasons is None:
        reasons = ["there is no record of it: it has not been run, or an earlier version did"]
    recorded = recorded_inputs(args.exp_dir / ".done" / args.scores) or {}
    top_n: int | None = recorded.get("top_n")
    if not reasons and args.scores == "asnorm" and args.top_n not in (None, top_n):
        reasons = [f"it took --top_n {top_n}, found --top_n {args.top_n}"]
    if reasons:
        raise RecipeError(
            f"{args.exp_dir}: normalise with --method {args.scores} must run before the calibration: "
            f"{'; '.join(reasons)} (run.sh --stage 6)"
        )
    return top_n


def _warn(name: str, check: EerCheck) -> None:
    for note in check.notes():
        logger.warning("list %s: %s", name, note)


def _durations(folder: Path) -> Mapping[str, float]:
    """Utterance -> seconds, of a packed set."""
    reader = ShardReader(folder / "shard.list")
    return dict(zip(reader.keys, (reader.num_samples / reader.sample_rate).tolist(), strict=True))


def _of_both(trials: TrialTable, duration_s: Mapping[str, float]) -> NDArray[np.float64]:
    """(N, 2) seconds of both sides."""
    seconds = np.array([duration_s[name] for name in trials.utterances])
    return np.stack([seconds[trials.enrolment], seconds[trials.test]], axis=1)
