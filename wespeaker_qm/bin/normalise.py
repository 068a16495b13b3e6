"""Stage 6: normalise the scores of a run against a cohort of training speakers."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.cohort import check_apart, cohort_sources, load_cohort
from wespeaker_qm.score.cosine import load_mean, trial_directions
from wespeaker_qm.score.normalisation import TOP_N, cohort_statistics, normalise, quality_measures
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import read_scores, write_scores
from wespeaker_qm.trials.score_paths import CALIBRATED, NORMALISED, discard_variant, score_path
from wespeaker_qm.utils.arguments import whole_number
from wespeaker_qm.utils.done import DoneMarker, recorded_inputs
from wespeaker_qm.utils.stage import begin, finish

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the normalised scores of the same inputs change."""

HELP = "AS-norm or S-norm of the scores against the training speakers (stage 6)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="scored experiment; scores/<list>.<method>.score go here, and the cohort beside the training embeddings",
    )
    parser.add_argument(
        "--method", choices=NORMALISED, default="asnorm", help="all of the cohort, or the nearest (default: asnorm)"
    )
    parser.add_argument(
        "--top_n",
        type=whole_number(2),
        default=TOP_N,
        metavar="N",
        help=f"asnorm: how many of the nearest cohort speakers count; at most all of them (default: {TOP_N})",
    )


def run(args: argparse.Namespace) -> None:
    """Normalise all lists, unless nothing changed since the last run."""
    info = CorpusInfo.load(args.data)
    refuse_stale(args.exp_dir, args.data, info)
    trials_paths = {name: args.data / "trials" / name for name in info.trials}
    cosines = {name: score_path(args.exp_dir, name) for name in info.trials}
    outputs = {name: score_path(args.exp_dir, name, args.method) for name in info.trials}
    embeddings = args.exp_dir / "embeddings"
    mean_path = embeddings / "mean_vec.npy"
    scps = {name: embeddings / folder / "xvector.scp" for name, folder in info.trials.items()}
    top_n = args.top_n if args.method == "asnorm" else None
    sources = [f"scores/{path.name}" for path in cosines.values()] + [f"data/trials/{name}" for name in info.trials]
    sources += [f"embeddings/{folder}" for folder in info.trials.values()]
    sources += [f"data/{folder}/utt2spk" for folder in info.trials.values()]
    sources += ["embeddings/mean_vec.npy", *cohort_sources(info)]
    inputs = {"top_n": top_n, **digests(sources, args.exp_dir, args.data)}
    done = args.exp_dir / ".done"
    marker = DoneMarker(done / args.method, inputs, outputs.values(), version=VERSION, checks_outputs=True)
    if not begin(marker, "normalise", others=[cache_path(path) for path in outputs.values()]):
        if (recorded_inputs(done / CALIBRATED) or {}).get("scores") != args.method:
            discard_variant(args.exp_dir, info.trials, CALIBRATED)  # of the other method
        return

    for folder in dict.fromkeys(info.trials.values()):
        check_apart(args.data / info.train, args.data / folder, "the cohort")
    cohort = load_cohort(args.data, args.exp_dir, info)
    mean = load_mean(mean_path)
    for name in info.trials:
        trials = read_trial_table(trials_paths[name])
        scores = read_scores(cosines[name], trials).scores
        directions = trial_directions(trials, scps[name], mean)
        statistics = cohort_statistics(directions, cohort, top_n, progress=f"{args.method} {name}")
        write_scores(
            outputs[name],
            trials,
            normalise(trials, scores, statistics),
            quality_measures(trials, directions, statistics),
        )
        logger.info("normalised %d scores of %s -> %s", len(trials), name, outputs[name])
    discard_variant(args.exp_dir, info.trials, CALIBRATED)  # made of older scores
    finish(marker)
