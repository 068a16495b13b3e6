"""Stage 3: train a speaker network."""

import argparse
import functools
import json
import logging
from pathlib import Path

from wespeaker_qm.config import Config, load_config
from wespeaker_qm.score.validation import validation_check
from wespeaker_qm.train import build, checkpoint, resume
from wespeaker_qm.train.distributed import Processes, joined_processes, refuse_missing_gpus
from wespeaker_qm.train.loop import Trainer, Validation
from wespeaker_qm.utils.arguments import true_or_false
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.lock import lock_for_writing
from wespeaker_qm.utils.ownership import claim, refuse_foreign
from wespeaker_qm.utils.provenance import provenance
from wespeaker_qm.utils.stage import finish

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
    """Train, or continue, or find that nothing is left to do; all processes the same."""
    config = functools.cache(lambda: load_config(args.config, args.set))
    with joined_processes(lambda: config().device) as processes:
        _train(args, config(), processes)


def _train(args: argparse.Namespace, config: Config, processes: Processes) -> None:
    exp_dir: Path = args.exp_dir
    processes.together(lambda: refuse_missing_gpus(config.gpus, config.device))
    kept = range(config.num_epochs - config.num_avg + 1, config.num_epochs + 1)
    outputs = [checkpoint.model_path(exp_dir, epoch) for epoch in kept]
    inputs = processes.together(lambda: {**resume.settings_of(config), **resume.made_from(config, args.data)})
    marker = DoneMarker(exp_dir / ".done" / "train", inputs, outputs, checks_outputs=True)
    if processes.first_decides(marker.is_current):
        logger.info("stage train: nothing changed since the last run, skipped (delete %s to force)", marker.path)
        return
    processes.first_decides(lambda: _take(exp_dir, config, marker))
    processes.check_shared(exp_dir)
    processes.agree(inputs, "what is trained on")
    continues = processes.first_decides(lambda: _continues(args, marker))
    trainer = processes.together(
        lambda: Trainer(config, args.data, exp_dir, processes, _validation(args, config, processes))
    )
    if continues:
        trainer.resume()
        processes.together(lambda: _refuse_lost_models(trainer, marker))
    if processes.is_first:
        marker.clear()
        config.save(exp_dir / "config.yaml")
        write_text(exp_dir / "provenance.json", json.dumps(provenance(), indent=1) + "\n")
    trainer.run()
    if processes.is_first:
        finish(marker)
        logger.info("trained %d epochs; models are in %s", config.num_epochs, exp_dir / "models")


def _take(exp_dir: Path, config: Config, marker: DoneMarker) -> None:
    """Become the only writer of a folder that holds nothing but what trainings of ours wrote.

    Raises:
        RecipeError: another process is at work there, or files lie there that no stage made.
    """
    others = ["config.yaml", "provenance.json", "train_log.jsonl", "models/resume.pt"]
    models = [checkpoint.model_path(exp_dir, epoch) for epoch in range(1, config.num_epochs + 1)]
    written = [*models, *(exp_dir / name for name in others)]
    # A state with our checksum beside it is of a training of ours, also of one that was called from Python.
    is_ours = marker.path.is_file() or checksum_path(checkpoint.resume_path(exp_dir)).is_file()
    refuse_foreign(exp_dir, written, made_before=is_ours)
    lock_for_writing(exp_dir)
    claim(exp_dir, written, made_before=is_ours)


def _continues(args: argparse.Namespace, marker: DoneMarker) -> bool:
    """Whether there is a run to go on with.

    Raises:
        RecipeError: there is one that must not be continued, or overwritten.
    """
    if checkpoint.resume_path(args.exp_dir).is_file():
        if not args.resume:
            raise RecipeError(
                f"{args.exp_dir} holds a run already and --resume is false; use --resume true to continue it, choose "
                "another --exp_dir, or delete it"
            )
        return True
    if marker.path.is_file():
        raise RecipeError(
            f"{args.exp_dir} holds a finished run, without its resume.pt, that is not this one: "
            f"{'; '.join(marker.changes())}. Choose another --exp_dir, or delete this one to train "
            "anew; to use its weights as they are, go on with run.sh --stage 4"
        )
    return False


def _validation(args: argparse.Namespace, config: Config, processes: Processes) -> Validation | None:
    """The held-out check, which the first process makes for all."""
    if not processes.is_first:
        return None
    return validation_check(args.data, build.build_fbank(config, dither=0.0), processes.device)


def _refuse_lost_models(trainer: Trainer, marker: DoneMarker) -> None:
    """A finished run writes no models any more, so those that it has lost would never come back.

    Raises:
        RecipeError: models are missing, or others than the run wrote.
    """
    lost = marker.lost_outputs() if trainer.last_epoch == trainer.config.num_epochs else []
    if lost:
        raise RecipeError(
            f"this run has finished, but {'; '.join(lost)}. Put back what it wrote, or delete "
            f"{checkpoint.resume_path(trainer.exp_dir)} and {marker.path} to train anew"
        )
