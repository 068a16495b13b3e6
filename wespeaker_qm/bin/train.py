"""Stage 3: train a speaker network."""

import argparse
import json
import logging
from pathlib import Path

from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shard_index import packed_digest
from wespeaker_qm.score.validation import validation_check
from wespeaker_qm.train import build, checkpoint
from wespeaker_qm.train.distributed import joined_processes
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.done import DoneMarker, content_stamp
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.provenance import provenance

HELP = "train a speaker network (stage 3)"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm train``."""
    parser.add_argument("--data", type=Path, required=True, help="prepared and packed corpus, e.g. data/mini")
    parser.add_argument("--exp_dir", type=Path, required=True, help="where models and logs go")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        required=True,
        metavar="YAML",
        help="configuration files, merged left to right",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="dotted overrides, e.g. dataset_args.num_frms=100"
    )
    parser.add_argument(
        "--resume",
        type=true_or_false,
        default=True,
        metavar="true|false",
        help="continue an interrupted run (default: true); false refuses a folder that holds one",
    )


def run(args: argparse.Namespace) -> None:
    """Train, or continue, or find that nothing is left to do."""
    config = load_config(args.config, args.set)
    exp_dir: Path = args.exp_dir
    corpus = CorpusInfo.load(args.data)
    sets = [name for name in (corpus.train, corpus.validation, corpus.noise, corpus.rirs) if name is not None]
    shards = [packed_digest(args.data / name) for name in sets]
    inputs = [config.to_yaml(), content_stamp(args.data / "corpus.yaml"), shards]
    kept = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    outputs = [checkpoint.model_path(exp_dir, epoch) for epoch in kept]
    marker = DoneMarker(exp_dir / ".done" / "train", inputs, outputs)
    if marker.is_current():
        logger.info("stage train: nothing changed since the last run, skipped (delete %s to force)", marker.path)
        return
    has_state = checkpoint.resume_path(exp_dir).is_file()
    if has_state and not args.resume:
        raise RecipeError(
            f"{exp_dir} holds a run already and --resume is false; use --resume true to continue it, choose another "
            "--exp_dir, or delete it"
        )
    with joined_processes(config.device) as processes:
        validate = None
        if processes.is_first:
            validate = validation_check(args.data, build.build_fbank(config, dither=0.0), processes.device)
        trainer = Trainer(config, args.data, exp_dir, processes, validate)
        if has_state:
            trainer.resume()
        if processes.is_first:
            marker.clear()
            config.save(exp_dir / "config.yaml")
            write_text(exp_dir / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
        trainer.run()
        if processes.is_first:
            marker.write()
            logger.info("trained %d epochs; models are in %s", config.num_epochs, exp_dir / "models")
