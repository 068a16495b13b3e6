"""Stage 4, second half: embeddings of the training and trial sets, and the training mean."""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from wespeaker_qm.audio.fbank import Fbank
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.corpus.shard_index import packed_digest
from wespeaker_qm.corpus.shards import ShardReader
from wespeaker_qm.embed.extract import Embedder, LtasEmbedder, NetworkEmbedder, embed_all
from wespeaker_qm.train import build, checkpoint
from wespeaker_qm.train.distributed import choose_device
from wespeaker_qm.utils.arguments import COUNT, READERS
from wespeaker_qm.utils.checksums import checked_path
from wespeaker_qm.utils.done import DoneMarker, file_stamp
from wespeaker_qm.utils.stage import begin, finish
from wespeaker_qm.utils.vectors import write_vectors

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
        "--untrained", action="store_true", help="use the run's initial random weights; write to EXP_DIR/untrained"
    )
    system.add_argument(
        "--ltas", action="store_true", help="use long-term average spectra: no network, and no run needed in EXP_DIR"
    )


def _open_system(args: argparse.Namespace, corpus: CorpusInfo) -> tuple[Embedder, Fbank, Path, list[str]]:
    """The embedder, its filter bank, the folder to write to, and stamps of what it depends on."""
    exp_dir: Path = args.exp_dir
    if args.ltas:
        rate = ShardReader(args.data / corpus.train / "shard.list").sample_rate
        fbank = Fbank(sample_rate=rate)
        return LtasEmbedder(fbank), fbank, exp_dir / "embeddings", ["ltas"]
    config: Config = load_config([exp_dir / "config.yaml"])
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    fbank = build.build_fbank(config, dither=0.0)
    torch.manual_seed(config.seed)
    encoder = build.build_encoder(config)
    if args.untrained:
        folder, stamps = exp_dir / "untrained", ["untrained", config.to_yaml()]
    else:
        path = checkpoint.average_path(exp_dir) if args.epoch is None else checkpoint.model_path(exp_dir, args.epoch)
        checkpoint.load_encoder(encoder, checkpoint.load(path), path)
        folder, stamps = exp_dir if args.epoch is None else exp_dir / path.stem, [file_stamp(path)]
    return NetworkEmbedder(encoder, fbank, choose_device(config.device)), fbank, folder / "embeddings", stamps


def run(args: argparse.Namespace) -> None:
    """Embed every set that scoring needs; all utterances, or an error."""
    corpus = CorpusInfo.load(args.data)
    embed, fbank, output, stamps = _open_system(args, corpus)
    validation = [] if corpus.validation is None else [corpus.validation]  # stage 7 calibrates on it
    sets = list(dict.fromkeys([corpus.train, *corpus.trials.values(), *validation]))
    mean_path = output / "mean_vec.npy"
    for name in sets:
        target = output / name / "xvector.scp"
        outputs = [target, mean_path] if name == corpus.train else [target]
        inputs = [*stamps, packed_digest(args.data / name)]
        marker = DoneMarker(output.parent / ".done" / f"extract_{name}", inputs, outputs)
        others = [target.with_suffix(".ark")]
        if not begin(marker, f"extract {name}", others=others, task=f"extract {name}: {' '.join(inputs)}"):
            continue
        reader = ShardReader(args.data / name / "shard.list")
        embeddings = embed_all(
            embed, reader, frame_shift=fbank.frame_shift, num_workers=args.num_workers, description=f"extract {name}"
        )
        if name == corpus.train:
            with checked_path(mean_path) as temporary:
                np.save(temporary, embeddings.mean(axis=0, dtype=np.float64).astype(np.float32))
        write_vectors(target.parent, target.stem, reader.keys, embeddings)
        finish(marker)
        logger.info("extracted %d embeddings of dimension %d into %s", *embeddings.shape, target)
