"""Stage 5: score the trial lists of a corpus by cosine."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.score.cosine import load_mean, score_trials
from wespeaker_qm.score.upstream import digests, refuse_stale
from wespeaker_qm.trials.cache import cache_path
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_files import write_scores
from wespeaker_qm.trials.score_paths import VARIANTS, discard_variant, score_path
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.done import DoneMarker, value_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the scores of the same embeddings change."""

HELP = "score trial lists by cosine, the training mean subtracted (stage 5)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds embeddings/<set>/xvector.scp and embeddings/mean_vec.npy; scores/<list>.score go here",
    )
    parser.add_argument("--trials", nargs="+", metavar="LIST", help="trial lists (default: all of corpus.yaml)")
    parser.add_argument(
        "--subtract_mean",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: plain cosine, without subtraction of the training mean (default: true)",
    )
    parser.add_argument(
        "--text",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="false: write only the binary scores/<list>.score.npz, which takes a third of the time (default: true)",
    )


def run(args: argparse.Namespace) -> None:
    """Score the lists, unless nothing changed since the last run."""
    info = CorpusInfo.load(args.data)
    names = list(info.trials) if args.trials is None else args.trials
    unknown = [name for name in names if name not in info.trials]
    if unknown:
        raise RecipeError(f"--trials: unknown {', '.join(unknown)}; {args.data} has {', '.join(info.trials)}")

    refuse_stale(args.exp_dir, args.data, info, scored=False)
    mean_path = args.exp_dir / "embeddings" / "mean_vec.npy" if args.subtract_mean else None
    sources = [f"data/trials/{name}" for name in names] + [f"embeddings/{info.trials[name]}" for name in names]
    sources += ["embeddings/mean_vec.npy"] if args.subtract_mean else []
    trials_paths = {name: args.data / "trials" / name for name in names}
    scps = {name: args.exp_dir / "embeddings" / info.trials[name] / "xvector.scp" for name in names}
    outputs = {name: score_path(args.exp_dir, name) for name in names}
    inputs = {"text": args.text, **digests(sources, args.exp_dir, args.data)}
    made = [output if args.text else cache_path(output) for output in outputs.values()]
    others = [path for text in outputs.values() for path in (text, cache_path(text))]
    task = f"score {', '.join(names)}: {value_digest(inputs)}"
    marker = DoneMarker(args.exp_dir / ".done" / "score", inputs, made, version=VERSION, checks_outputs=True)
    if not begin(marker, "score", others=others, task=task):
        return

    mean = None if mean_path is None else load_mean(mean_path)
    for name in names:
        trials = read_trial_table(trials_paths[name])
        scores = score_trials(trials, scps[name], mean)
        write_scores(outputs[name], trials, scores, text=args.text)
        logger.info("scored %d trials of %s -> %s", len(trials), name, outputs[name])
    for variant in VARIANTS:  # made of older cosines
        discard_variant(args.exp_dir, info.trials, variant)
    finish(marker)
