"""Stage 4, second half: embeddings of the training and trial sets, and the training mean."""

import argparse
import dataclasses
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import Embedder, LtasEmbedder, NetworkEmbedder, embed_all
from wespeaker_qm.packing.index import packed_digest
from wespeaker_qm.packing.shards import ShardReader
from wespeaker_qm.train import build, checkpoint
from wespeaker_qm.train.distributed import choose_device, refuse_missing_gpus
from wespeaker_qm.utils.arguments import COUNT, READERS
from wespeaker_qm.utils.checksums import checked_path
from wespeaker_qm.utils.done import ABSENT, DoneMarker, file_digest, recorded_inputs, value_digest
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.stage import begin, finish, refuse
from wespeaker_qm.utils.vectors import write_vectors

VERSION = 1
"""Of the code; raised when the embeddings of the same audio and weights change."""

HELP = "extract embeddings of whole utterances (stage 4)"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``wespeaker-qm extract``."""
    parser.add_argument("--data", type=Path, required=True, help="prepared and packed corpus, e.g. data/mini")
    parser.add_argument("--exp_dir", type=Path, required=True, help="trained run; embeddings go to its embeddings/")
    parser.add_argument(
        "--num_workers", type=READERS, default=0, help="processes that read audio (default: 0, none apart)"
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument(
        "--epoch",
        type=COUNT,
        metavar="N",
        help="use models/model_N.pt instead of the average; write to EXP_DIR/model_N, for a look at how a run develops",
    )
    system.add_argument(
        "--untrained",
        action="store_true",
        help="use a network like the run's with random weights; write to EXP_DIR/untrained",
    )
    system.add_argument(
        "--initial",
        action="store_true",
        help="use the weights that the training began with, where model_init names some; write to EXP_DIR/initial",
    )
    system.add_argument(
        "--ltas", action="store_true", help="use long-term average spectra: no network, and no run needed in EXP_DIR"
    )


class _System(NamedTuple):
    """What embeds, and where to."""

    embed: Embedder
    fbank: Fbank
    folder: Path
    """The system's experiment: embeddings go to ``folder/embeddings``."""
    inputs: dict[str, Any]
    """What it depends on, for done markers."""
    absent: Path | None = None
    """Weights that are gone, so that nothing can be embedded; what was made of them is as good as before."""


def _open_system(args: argparse.Namespace, corpus: CorpusInfo) -> _System | None:
    """The system that the options name; None where it is that of ``model_init``, and there is no such thing.

    Raises:
        RecipeError: weights are missing, do not fit the network, or are not those that the training began with.
    """
    exp_dir: Path = args.exp_dir
    if args.ltas:
        rate = ShardReader(args.data / corpus.train / "shard.list").sample_rate
        fbank = Fbank(sample_rate=rate)
        return _System(LtasEmbedder(fbank), fbank, exp_dir, {"system": "ltas"})
    config: Config = load_config([exp_dir / "config.yaml"])
    refuse_missing_gpus(config.gpus, config.device)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    fbank = build.build_fbank(config, dither=0.0)
    torch.manual_seed(config.seed)
    encoder = build.build_encoder(dataclasses.replace(config, model_init=None))
    inputs: dict[str, Any] = {
        "network": [config.model, dataclasses.asdict(config.model_args)],
        "features": [config.dataset_args.resample_rate, dataclasses.asdict(config.dataset_args.fbank_args)],
    }
    if args.untrained:
        folder, inputs = exp_dir / "untrained", {**inputs, "system": "untrained", "seed": config.seed}
    elif args.initial:
        if config.model_init is None:
            logger.info("stage extract: no initial weights (model_init): the training began with random ones")
            return None
        path, folder = Path(config.model_init), exp_dir / "initial"
        found = file_digest(path)
        trained_from = (recorded_inputs(exp_dir / ".done" / "train") or {}).get("initial weights", found)
        inputs = {**inputs, "system": "initial", "initial weights": trained_from}
        if found == ABSENT:
            embed = NetworkEmbedder(encoder, fbank, torch.device("cpu"))
            return _System(embed, fbank, folder, inputs, absent=path)
        if trained_from != found:
            raise RecipeError(
                f"{path}: not the weights that {exp_dir} was trained from; put those back, or delete {folder} and "
                "leave this baseline out"
            )
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
    else:
        path = checkpoint.average_path(exp_dir) if args.epoch is None else checkpoint.model_path(exp_dir, args.epoch)
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
        folder = exp_dir if args.epoch is None else exp_dir / path.stem
        inputs |= {os.path.relpath(path, folder): file_digest(path)}
    return _System(NetworkEmbedder(encoder, fbank, choose_device(config.device)), fbank, folder, inputs)


def run(args: argparse.Namespace) -> None:
    """Embed every set that scoring needs; all utterances, or an error."""
    corpus = CorpusInfo.load(args.data)
    system = _open_system(args, corpus)
    if system is None:
        return
    output = system.folder / "embeddings"
    validation = [] if corpus.validation is None else [corpus.validation]  # stage 7 calibrates on it
    sets = list(dict.fromkeys([corpus.train, *corpus.trials.values(), *validation]))
    mean_path = output / "mean_vec.npy"
    jobs = {}
    for name in sets:
        target = output / name / "xvector.scp"
        outputs = [target, target.with_suffix(".ark"), *([mean_path] if name == corpus.train else [])]
        inputs = {**system.inputs, f"audio/{name}": packed_digest(args.data / name)}
        done = system.folder / ".done" / f"extract_{name}"
        jobs[name] = DoneMarker(done, inputs, outputs, version=VERSION, checks_outputs=True)
        refuse(jobs[name])  # of the last set, too, before hours go into the first
    if system.absent is not None:
        _keep_or_leave_out(system.absent, system.folder, jobs)
        return
    for name, marker in jobs.items():
        target = output / name / "xvector.scp"
        if not begin(marker, f"extract {name}", task=f"extract {name}: {value_digest(marker.inputs)}"):
            continue
        reader = ShardReader(args.data / name / "shard.list")
        embeddings = embed_all(
            system.embed,
            reader,
            frame_shift=system.fbank.frame_shift,
            num_workers=args.num_workers,
            description=f"extract {name}",
        )
        if name == corpus.train:
            with checked_path(mean_path) as temporary:
                np.save(temporary, embeddings.mean(axis=0, dtype=np.float64).astype(np.float32))
        write_vectors(target.parent, target.stem, reader.keys, embeddings)
        finish(marker)
        logger.info("extracted %d embeddings of dimension %d into %s", *embeddings.shape, target)


def _keep_or_leave_out(weights: Path, folder: Path, jobs: dict[str, DoneMarker]) -> None:
    """Without the weights that the training began with: keep what was made of them, or do without their baseline.

    Raises:
        RecipeError: embeddings are there, and would have to be made again.
    """
    if not folder.exists():
        logger.warning(
            "%s: absent, so the baseline of the weights that the training began with is left out; to have it, put the "
            "file back and run stage 4 again (run.sh --stage 4)",
            weights,
        )
        return
    changes = {name: changed for name, marker in jobs.items() if (changed := marker.changes())}
    if changes:
        name, reasons = next(iter(changes.items()))
        raise RecipeError(
            f"{weights}: absent, expected the weights that the training began with, because {folder} is not as they "
            f"would make it now ({name}: {'; '.join(reasons[:3])}); put the file back, or delete {folder} and leave "
            "this baseline out"
        )
    for name in jobs:
        logger.info("stage extract %s: nothing changed since the last run, skipped (%s is absent)", name, weights)
