"""Stage 7: turn the scores of a run into log-likelihood ratios."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shard_index import packed_digest
from wespeaker_qm.corpus.shards import ShardReader
from wespeaker_qm.evaluate.log_likelihood import cllr
from wespeaker_qm.evaluate.score_files import CALIBRATED, NORMALISED, score_path, stamps
from wespeaker_qm.evaluate.trial_speakers import trial_speakers
from wespeaker_qm.evaluate.trial_table import TrialTable, read_scores, read_trial_table
from wespeaker_qm.score.calibration import CalibrationError, choose, features, fit
from wespeaker_qm.score.cohort import check_apart, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.normalisation import TOP_N, cohort_statistics, normalise, quality_measures
from wespeaker_qm.score.writing import write_scores
from wespeaker_qm.utils.arguments import whole_number
from wespeaker_qm.utils.done import DoneMarker, file_stamp
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

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
    parser.add_argument("--top_n", type=whole_number(2), default=TOP_N, metavar="N", help="as in stage 6")


def run(args: argparse.Namespace) -> None:
    """Fit on the corpus's validation list, apply to its trial lists, unless nothing changed since the last run."""
    info = CorpusInfo.load(args.data)
    if info.validation is None:
        logger.warning(
            "stage calibrate: skipped, because the corpus has no list to calibrate on; `validation` in %s names a list "
            "of other speakers than those of the trials",
            args.data / "corpus.yaml",
        )
        return
    embeddings = args.exp_dir / "embeddings"
    lists = {**info.trials, info.validation: info.validation}
    trials_paths = {name: args.data / "trials" / name for name in lists}
    scored = {name: score_path(args.exp_dir, name, args.scores) for name in info.trials}
    outputs = {name: score_path(args.exp_dir, name, CALIBRATED) for name in info.trials}
    model_path = args.exp_dir / "scores" / "calibration.json"
    inputs = [*trials_paths.values(), embeddings / info.validation / "xvector.scp", embeddings / "mean_vec.npy"]
    marker = DoneMarker(
        args.exp_dir / ".done" / CALIBRATED,
        [
            args.scores,
            args.top_n,
            [file_stamp(path) for path in inputs],
            [stamps(path) for path in scored.values()],
            [packed_digest(args.data / folder) for folder in dict.fromkeys(lists.values())],
        ],
        [model_path, *outputs.values()],
    )
    if marker.is_current():
        logger.info("stage calibrate: nothing changed since the last run, skipped (delete %s to force)", marker.path)
        return
    marker.clear()

    calibration_speakers = read_map(args.data / info.validation / "utt2spk")
    for folder in dict.fromkeys(info.trials.values()):
        check_apart(calibration_speakers, read_map(args.data / folder / "utt2spk"), "the calibration list")
    trials = read_trial_table(trials_paths[info.validation])
    directions = trial_directions(trials, embeddings / info.validation / "xvector.scp", load_mean(inputs[-1]))
    top_n = args.top_n if args.scores == "asnorm" else None
    statistics = cohort_statistics(directions, load_cohort(args.data, args.exp_dir, info), top_n)
    scores = normalise(trials, directions.cosines(trials.enrolment, trials.test), statistics)
    durations = {folder: _durations(args.data / folder) for folder in dict.fromkeys(lists.values())}
    x = features(scores, _of_both(trials, durations[info.validation]), quality_measures(trials, directions, statistics))
    cross_validated = choose(x, trials.is_target, trial_speakers(trials, calibration_speakers))
    num_features = next(iter(cross_validated))
    logger.info(
        "Cllr on held-out speakers of %s by number of features: %s",
        info.validation,
        ", ".join(f"{count}: {value:.3f}" for count, value in cross_validated.items()),
    )
    x = x[:, :num_features]
    try:
        model = fit(x, trials.is_target)
    except CalibrationError as error:
        logger.warning("stage calibrate: skipped, because %s", error)
        return
    model.save(model_path)
    logger.info(
        "calibrated on %d trials of %s: Cllr %.3f there",
        len(trials),
        info.validation,
        cllr(model.apply(x), trials.is_target),
    )
    for name, folder in info.trials.items():
        trials = read_trial_table(trials_paths[name])
        _, scores, measures = read_scores(scored[name], trials)
        x = features(scores, _of_both(trials, durations[folder]), measures)
        write_scores(outputs[name], trials, model.apply(x[:, :num_features]))
        logger.info("calibrated %d scores of %s -> %s", len(trials), name, outputs[name])
    marker.write()


def _durations(folder: Path) -> Mapping[str, float]:
    """Utterance -> seconds, of a packed set."""
    reader = ShardReader(folder / "shard.list")
    return dict(zip(reader.keys, (reader.num_samples / reader.sample_rate).tolist(), strict=True))


def _of_both(trials: TrialTable, duration_s: Mapping[str, float]) -> NDArray[np.float64]:
    """(N, 2) seconds of both sides."""
    seconds = np.array([duration_s[name] for name in trials.utterances])
    return np.stack([seconds[trials.enrolment], seconds[trials.test]], axis=1)
