"""The end of stages 5 to 7: metrics, DET figure and report from the scores that are there."""

import argparse
import logging
from pathlib import Path

from wespeaker_qm.bin.resampling import add_resampling
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.evaluate.metrics import evaluate_list
from wespeaker_qm.report.markdown import TRAINED, CorpusCard, Evaluation, Training, list_table, write_evaluation
from wespeaker_qm.report.training import loss_card, read_training_log
from wespeaker_qm.score.calibration import load as load_calibration
from wespeaker_qm.score.upstream import digests, refuse_stale, stale
from wespeaker_qm.trials.lists import read_trial_table
from wespeaker_qm.trials.score_paths import CALIBRATED, VARIANTS, present_variants, score_path
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.provenance import provenance
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.tables import read_map

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the code; raised when the figures of the same scores change."""

HELP = "EER, minDCF and TAR@FAR of all trial lists with intervals, DET figure, report.md (end of stages 5 to 7)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="prepared corpus, e.g. data/mini")
    parser.add_argument(
        "--exp_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="scored experiment; metrics.json, report.md, report.tex, det.png, det.pdf and training.png go here",
    )
    parser.add_argument(
        "--baseline",
        type=_name_and_folder,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another system, scored on the same lists into DIR/scores, shown beside it (may be given several times)",
    )
    add_resampling(parser)


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    taken = (TRAINED, *VARIANTS)
    if not (name and equals and folder) or name in taken:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=DIR with a NAME other than {', '.join(taken)}")
    return name, Path(folder)


def _true_variants(exp_dir: Path, data: Path, info: CorpusInfo) -> list[str]:
    """The normalised and calibrated scores that are there and were made from what is there now; others are told."""
    true = []
    for variant in present_variants(exp_dir, info.trials):
        reasons = stale(variant, exp_dir, data)
        if reasons is None:
            reasons = [
                "no record of what they were made from: by an interrupted run, an earlier version or somebody else"
            ]
        if reasons:
            number = 7 if variant == CALIBRATED else 6
            logger.warning(
                "%s/scores: the %s scores are left out: %s; make them again (run.sh --stage %d)",
                exp_dir,
                variant,
                "; ".join(reasons),
                number,
            )
        else:
            true.append(variant)
    return true


def run(args: argparse.Namespace) -> None:
    """Evaluate all lists and systems, unless nothing changed since the last run."""
    info = CorpusInfo.load(args.data)
    baselines: dict[str, Path] = {}
    for name, folder in args.baseline:
        if name == f"{args.exp_dir.resolve().name} ({TRAINED})":
            raise RecipeError(
                f"--baseline: {name} is what the run itself is called in the report, expected another name"
            )
        if name in baselines:
            raise RecipeError(f"--baseline: the name {name} stands twice, expected another name for {folder}")
        baselines[name] = folder
    for folder in (args.exp_dir, *baselines.values()):
        refuse_stale(folder, args.data, info)
    variants = _true_variants(args.exp_dir, args.data, info)
    notes = []
    calibration_path = args.exp_dir / "scores" / "calibration.json"
    if CALIBRATED in variants:
        try:
            _, checks = load_calibration(calibration_path)
            notes = [f"List {name}: {note}." for name, check in checks.items() for note in check.notes()]
        except RecipeError as error:
            logger.warning("calibrated scores are left out: %s", error)
            variants.remove(CALIBRATED)
    own = [(TRAINED, ""), *((variant, variant) for variant in variants)]
    score_files = {
        name: {system: score_path(args.exp_dir, name, variant) for system, variant in own}
        | {system: score_path(folder, name) for system, folder in baselines.items()}
        for name in info.trials
    }
    trials_paths = {name: args.data / "trials" / name for name in info.trials}
    speaker_paths = {name: args.data / folder / "utt2spk" for name, folder in info.trials.items()}
    config_path, log_path = args.exp_dir / "config.yaml", args.exp_dir / "train_log.jsonl"
    was_trained_here = log_path.is_file()

    sources = ["data/corpus.yaml", "config.yaml", "train_log.jsonl", "scores/calibration.json"]
    sources += [f"data/trials/{name}" for name in info.trials]
    sources += [f"data/{folder}/utt2spk" for folder in info.trials.values()]
    sources += [f"scores/{score_path(args.exp_dir, name, variant).name}" for name in info.trials for _, variant in own]
    inputs: dict[str, object] = dict(digests(sources, args.exp_dir, args.data))
    for baseline, folder in baselines.items():
        files = (f"scores/{score_path(folder, name).name}" for name in info.trials)
        inputs |= {f"{baseline}: {name}": digest for name, digest in digests(files, folder, args.data).items()}
    inputs |= {"systems": [*variants, *baselines], "num_resamples": args.num_resamples, "seed": args.seed}
    outputs = ["metrics.json", "report.md", "report.tex", "det.png", "det.pdf"]
    outputs += ["training.png"] if was_trained_here else []
    marker = DoneMarker(
        args.exp_dir / ".done" / "evaluate",
        inputs,
        [args.exp_dir / output for output in outputs],
        version=VERSION,
        checks_outputs=True,
    )
    if not begin(marker, "evaluate"):
        return

    training = None
    if was_trained_here:
        training = Training(loss=loss_card(load_config([config_path])), log=read_training_log(log_path))
    evaluation = Evaluation(
        run=args.exp_dir.resolve().name,
        corpus=CorpusCard(name=info.name, description=info.description, caveat=info.caveat, headline=info.headline),
        lists={
            name: evaluate_list(
                read_trial_table(trials_paths[name]),
                score_files[name],
                read_map(speaker_paths[name]),
                llr_systems=frozenset([CALIBRATED]),
                num_resamples=args.num_resamples,
                seed=args.seed,
                progress=f"intervals {name}",
            )
            for name in info.trials
        },
        training=training,
        notes=notes,
        baselines=baselines,
        provenance=provenance(),
    )
    write_evaluation(evaluation, args.exp_dir)
    logger.info("%s, list %s (per cent):", info.name, info.headline)
    logger.info("%s", list_table(evaluation, evaluation.lists[info.headline]))
    if info.caveat:
        logger.info("mind: %s", info.caveat)
    logger.info("report: %s", args.exp_dir / "report.md")
    finish(marker)
