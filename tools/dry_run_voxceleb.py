#!/usr/bin/env python3
"""Start a training's loader at the size of VoxCeleb2 dev, without its audio: how long that takes, and how much memory.

    tools/dry_run_voxceleb.py [--utterances 1092009] [--ranks 8] [--workers 16] [--work DIR]

Writes the index of a packed set of that size (5,994 speakers; lengths from 4 s on, exponential, 7.8 s in the mean, as
VoxCeleb2's) and tars of the right sizes that hold nothing but the headers which are checked: the file system makes
zeros of the rest when it is read, and stores none. Then, for one rank after another, a process opens the set, plans an
epoch, starts the workers and takes a batch from each of them, with the paper's configuration but for augmentation.
"""

import argparse
import functools
import tarfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wespeaker_qm.bench.child import in_child
from wespeaker_qm.bench.memory import MIB, private_bytes
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.loader import TrainingLoader
from wespeaker_qm.dataset.plan import BatchPlan
from wespeaker_qm.dataset.training_set import open_training_set
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.packing.index import write_index
from wespeaker_qm.packing.scan import Coding, IndexRow
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.arguments import COUNT, READERS
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.ownership import take_folder
from wespeaker_qm.utils.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000
NUM_SPEAKERS = 5994
UTTERANCES_A_SHARD = 1000
BLOCK = 512
WAV_HEADER = 44


class Start(NamedTuple):
    """Of one rank: seconds to open the set, to plan the epoch, until each worker's first batch; MiB not shared."""

    open_s: float
    plan_s: float
    batches_s: float
    process_mib: float
    worker_mib: float


def write_shard(tar: Path, first: int, lengths: np.ndarray) -> list[IndexRow]:
    """A tar of headers and holes, and its rows."""
    rows, offset = [], BLOCK
    for number, num_samples in enumerate(lengths.tolist(), first):
        speaker = f"id{number * NUM_SPEAKERS // 1_100_000 % NUM_SPEAKERS:05d}"
        num_bytes = WAV_HEADER + 2 * num_samples
        rows.append(
            IndexRow(
                *(f"{speaker}/{number:011d}/00001.wav", speaker, Coding.PCM),
                *(offset, num_bytes, WAV_HEADER, RATE, num_samples, 0),
            )
        )
        offset += -(-num_bytes // BLOCK) * BLOCK + BLOCK
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tar.open("wb") as file:
        for row in (rows[0], rows[-1]):
            header = tarfile.TarInfo(f"{row.key}.wav")
            header.size = row.num_bytes
            file.seek(row.offset - BLOCK)
            file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(offset)
    return rows


def write_set(folder: Path, num_utterances: int) -> None:
    """The whole set, and a corpus that has nothing else."""
    rng = np.random.default_rng(0)
    lengths = (RATE * (4 + rng.exponential(3.8, num_utterances))).astype(np.int64)
    firsts = range(0, num_utterances, UTTERANCES_A_SHARD)
    tars = [folder / "train" / "shards" / f"shards_{number:06d}.tar" for number in range(len(firsts))]

    def shards() -> Iterator[tuple[Path, Iterator[IndexRow]]]:
        for tar, first in Progress(list(zip(tars, firsts, strict=True)), desc="headers", unit="tar"):
            yield tar, iter(write_shard(tar, first, lengths[first : first + UTTERANCES_A_SHARD]))

    write_index(folder / "train" / "shard.list", shards())
    write_text(folder / "train" / "shard.list", "".join(f"{tar}\n" for tar in tars))
    CorpusInfo(name="dry run", trials={"none": "train"}, headline="none").save(folder / "corpus.yaml")


def start(folder: Path, rank: int, ranks: int, workers: int) -> Start:
    """What a training process of this rank does before its first step."""
    # More workers than cores: this is no benchmark of them.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    clock = [time.perf_counter()]
    config = load_config([ROOT / "conf" / "resnet34.yaml"], ["dataset_args.aug_prob=0"])
    loading = config.dataloader_args
    training = open_training_set(config, DataFolder(folder), build_fbank(config, dither=1.0))
    clock.append(time.perf_counter())
    plan = BatchPlan(
        training.labels,
        sampler=config.dataset_args.sampler,
        samples_per_epoch=0,
        batch_size=min(loading.batch_size, len(training.labels) // ranks // workers),
        seed=config.seed,
        rank=rank,
        world_size=ranks,
    )
    next(iter(plan))
    clock.append(time.perf_counter())
    loader = TrainingLoader(
        training.chunks,
        training.frontend,
        plan,
        device=torch.device("cpu"),
        frontend_on="device",  # as with a GPU
        num_workers=workers,
        prefetch_factor=loading.prefetch_factor,
    )
    batches = iter(loader)
    for _ in range(workers):
        next(batches)
    clock.append(time.perf_counter())
    private = [private_bytes(process) / MIB for process in loader.worker_ids()]
    return Start(*np.diff(clock).tolist(), private_bytes() / MIB, max(private))


def main() -> None:
    """Write the set once, start every rank, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=COUNT, default=1_092_009)
    parser.add_argument("--ranks", type=COUNT, default=8)
    parser.add_argument("--workers", type=READERS, default=16)
    parser.add_argument("--work", type=Path, default=Path("/tmp/dry_run_voxceleb"))
    args = parser.parse_args()
    folder = args.work / str(args.utterances)
    take_folder(folder, made_before=(folder / "corpus.yaml").exists())
    if not (folder / "corpus.yaml").exists():
        write_set(folder, args.utterances)
    rows = []
    for rank in range(args.ranks):
        found = in_child(functools.partial(start, folder, rank, args.ranks, args.workers))
        rows.append([str(rank), *(f"{value:.2f}" for value in found[:3]), *(f"{value:.0f}" for value in found[3:])])
    header = [
        "rank",
        "open, s",
        "plan an epoch, s",
        f"first {args.workers} batches, s",
        "process, MiB",
        "worker, MiB",
    ]
    numbers = counted(args.utterances, "utterance", "utterances"), counted(args.ranks, "rank", "ranks")
    print(f"{', '.join(numbers)} of {counted(args.workers, 'worker', 'workers')}:\n")
    print(markdown_table(header, rows))
    print("\nMiB that a process does not share with others.")


if __name__ == "__main__":
    main()
