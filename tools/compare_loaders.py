#!/usr/bin/env python3
"""Compare the CPU time of a training sample with WeSpeaker's own loader, in turn, on the same packed audio.

    tools/compare_loaders.py --wespeaker SNAPSHOT --python ENV/bin/python [--data data/mini] [--rounds 9] [--work DIR]

SNAPSHOT is a checkout of WeSpeaker, ENV an environment outside the project with torch 2.8, torchaudio 2.8, soundfile,
scipy, lmdb, kaldiio and the sox library. Utterances of 8 s are joined from the training set of --data, as WAV and as
FLAC; noises have MUSAN's lengths (music 4 min, speech 8 min, noise 24 s), joined likewise from those of --data. Chunks
of 2 s, speed perturbation, augmentation 0.6, dither, 80 bins. One thread each. WeSpeaker's samples are counted as its
dataset yields them, ours as batches of 128; moving them to the training process is counted for neither.
"""

import argparse
import functools
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import torch

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bench.child import in_child
from wespeaker_qm.bench.memory import MIB, private_bytes
from wespeaker_qm.bench.timing import paired_ratios, quartiles
from wespeaker_qm.config import load_config
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.dataset.loader import TrainingLoader
from wespeaker_qm.dataset.plan import BatchPlan
from wespeaker_qm.dataset.training_set import TrainingSet, open_training_set
from wespeaker_qm.network.build import build_fbank
from wespeaker_qm.packing.format import encode_pcm16, to_pcm16
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.utils.allocator import keep_freed_pages
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.layout import DataFolder
from wespeaker_qm.utils.ownership import take_folder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.provenance import both_sides

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000
NUM_UTTERANCES = 1000
UTTERANCE_S = 8
NOISE_S = {"music": 240, "speech": 480, "noise": 24}
NOISES_EACH = 12
BATCH = 128
SAMPLES_A_ROUND = {"wespeaker": 200, "worker": 1280, "read": 12800}
BOUNDS = {("wav", "worker"): 10, ("flac", "worker"): 7, ("wav", "read"): 100, ("flac", "read"): 12}
NAMES = {"worker": "all on the worker", "read": "worker only reads"}


def joined(reader: ShardReader, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Random recordings one after another, cut to a length."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < num_samples:
        parts.append(reader.read(int(rng.integers(len(reader)))))
    return np.concatenate(parts)[:num_samples]


def write_set(folder: Path, recordings: dict[str, tuple[str, np.ndarray]], codec: str) -> None:
    """Write and pack recordings: key -> speaker, waveform."""
    for key, (_, waveform) in recordings.items():
        write_wav(folder / "wav" / f"{key}.wav", waveform, RATE)
    DataDir(
        wav={key: str(folder / "wav" / f"{key}.wav") for key in recordings},
        speaker={key: speaker for key, (speaker, _) in recordings.items()},
        duration_s={key: len(waveform) / RATE for key, (_, waveform) in recordings.items()},
    ).write(folder)
    pack_data_dir(folder, sample_rate=RATE, codec=codec, num_workers=2)


def write_lmdb(path: Path, reader: ShardReader, categories: bool) -> None:
    """WeSpeaker's layout: keys, which begin with the category of a noise, to WAV files."""
    with lmdb.open(str(path), map_size=1 << 34) as database, database.begin(write=True) as transaction:
        keys = []
        for i, key in enumerate(reader.keys):
            keys.append(f"{reader.speakers[i]}-{key}" if categories else key)
            transaction.put(keys[-1].encode(), encode_pcm16(to_pcm16(reader.read(i)), RATE, "wav"))
        transaction.put(b"__keys__", pickle.dumps(keys))


def prepare(data: Path, work: Path) -> None:
    """The audio of the comparison, once."""
    take_folder(work, made_before=(work / "complete").exists())
    if (work / "complete").exists():
        return
    corpus = CorpusInfo.load(data)
    rng = np.random.default_rng(0)
    speech = ShardReader(data / corpus.train / "shard.list")
    noise = ShardReader(data / str(corpus.noise) / "shard.list")
    rirs = ShardReader(data / str(corpus.rirs) / "shard.list")
    utterances = {
        f"u{number:05d}": ("speaker" if number else "other", joined(speech, UTTERANCE_S * RATE, rng))
        for number in range(NUM_UTTERANCES)
    }
    noises = {
        f"{kind}{number}": (kind, joined(noise, length_s * RATE, rng))
        for kind, length_s in NOISE_S.items()
        for number in range(NOISES_EACH)
    }
    for codec in ("wav", "flac"):
        write_set(work / codec / "train", utterances, codec)
    write_set(work / "wav" / "noise", noises, "wav")
    write_set(work / "wav" / "rirs", {key: ("room", rirs.read(i)) for i, key in enumerate(rirs.keys)}, "wav")
    write_lmdb(work / "noise.lmdb", ShardReader(work / "wav" / "noise" / "shard.list"), categories=True)
    write_lmdb(work / "rirs.lmdb", rirs, categories=False)
    for codec in ("wav", "flac"):
        for name in ("noise", "rirs"):
            if codec == "flac":
                (work / codec / name).symlink_to(work / "wav" / name)
        info = CorpusInfo(name=codec, trials={"none": "train"}, headline="none", noise="noise", rirs="rirs")
        info.save(work / codec / "corpus.yaml")
    (work / "complete").touch()


class Wespeaker:
    """WeSpeaker's loader in a process of its own."""

    def __init__(self, args: argparse.Namespace, work: Path, codec: str, shuffle_size: int) -> None:
        command = [args.python, str(ROOT / "tools" / "serve_wespeaker_loader.py"), str(args.wespeaker)]
        command += [str(work / codec / "train" / "shard.list"), str(work / "rirs.lmdb"), str(work / "noise.lmdb")]
        self.process = subprocess.Popen(
            [*command, str(shuffle_size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise SystemExit("WeSpeaker's loader ended; its message stands above")
        return line

    def make(self, count: int) -> tuple[float, float, float]:
        """CPU seconds, seconds and peak MiB of ``count`` samples."""
        print(count, file=self.process.stdin, flush=True)
        cpu_s, elapsed_s, peak_mib = map(float, self._line().split())
        return cpu_s, elapsed_s, peak_mib

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def open_ours(folder: Path) -> tuple[TrainingSet, BatchPlan]:
    """The paper's front end on the comparison's audio."""
    config = load_config([ROOT / "conf" / "resnet34.yaml"], [])
    training = open_training_set(config, DataFolder(folder), build_fbank(config, dither=1.0))
    plan = BatchPlan(
        training.labels, sampler="utterance", samples_per_epoch=10**6, batch_size=BATCH, seed=1, rank=0, world_size=1
    )
    return training, plan


def ours(folder: Path) -> dict[str, functools.partial[float]]:
    """What is timed of ours: number of samples -> CPU seconds."""
    training, plan = open_ours(folder)
    batches = iter(plan)

    def make(how: str, count: int) -> float:
        start = time.process_time()
        for _ in range(count // BATCH):
            batch = training.chunks[next(batches)]
            if how == "worker":
                training.frontend(batch)
        return time.process_time() - start

    return {how: functools.partial(make, how) for how in ("worker", "read")}


def first_sample(folder: Path) -> tuple[float, float]:
    """Seconds until a worker's first batch is here, and the MiB that it shares with no other process."""
    training, plan = open_ours(folder)
    start = time.perf_counter()
    loader = TrainingLoader(
        training.chunks, training.frontend, plan, device=torch.device("cpu"), num_workers=1, prefetch_factor=2
    )
    batches = iter(loader)
    next(batches)
    elapsed_s = time.perf_counter() - start
    for _ in range(20):
        next(batches)
    (worker,) = loader.worker_ids()
    return elapsed_s, private_bytes(worker) / MIB


def main() -> int:
    """Prepare, measure in turn, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wespeaker", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--data", type=Path, default=Path("data/mini"))
    parser.add_argument("--rounds", type=COUNT, default=9)
    parser.add_argument("--work", type=Path, default=Path("/tmp/compare_loaders"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare(args.data, args.work)

    start_rows = []
    for codec in ("wav", "flac"):
        theirs = Wespeaker(args, args.work, codec, 2500)
        _, elapsed_s, peak_mib = theirs.make(1)
        theirs.close()
        # In a process of its own: a forked worker's count begins with that of this one.
        our_s, our_mib = in_child(functools.partial(first_sample, args.work / codec))
        start_rows.append([codec, f"{elapsed_s:.1f}", f"{our_s:.2f}", f"{peak_mib:.0f}", f"{our_mib:.0f}"])

    keep_freed_pages()  # as our workers do
    rows, is_met = [], True
    for codec in ("wav", "flac"):
        theirs = Wespeaker(args, args.work, codec, 100)
        steps = ours(args.work / codec)
        times_ms: dict[str, list[float]] = {name: [] for name in SAMPLES_A_ROUND}
        for number in Progress(range(args.rounds + 1), desc=codec, unit="round"):
            for name, count in SAMPLES_A_ROUND.items():
                cpu_s = theirs.make(count)[0] if name == "wespeaker" else steps[name](count)
                if number:
                    times_ms[name].append(1e3 * cpu_s / count)
        theirs.close()
        for name in steps:
            ratio, bound = paired_ratios(times_ms["wespeaker"], times_ms[name]), BOUNDS[codec, name]
            is_met &= ratio.median >= bound
            medians = [quartiles(times_ms[key]).median for key in ("wespeaker", name)]
            cells = [f"{median:.3f}" for median in medians] + [f"{value:.1f}" for value in ratio]
            rows.append([codec, NAMES[name], *cells, str(bound), "met" if ratio.median >= bound else "NOT met"])
    header = ["codec", "ours", "WeSpeaker, ms", "ours, ms", "lower quartile", "ratio", "upper quartile", "bound", ""]
    print("CPU time of a sample, one thread, in turn:\n")
    print(markdown_table(header, rows))
    header = ["codec", "WeSpeaker, s", "ours, s", "WeSpeaker, MiB", "ours, MiB"]
    print("\nTime to the first sample (ours: to the first batch of 128), and MiB of a worker (ours: not shared):\n")
    print(markdown_table(header, start_rows))
    print(both_sides(args.python, args.wespeaker))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
