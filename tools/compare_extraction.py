#!/usr/bin/env python3
"""Compare the CPU time of extraction with WeSpeaker's own extract.py, in turn, on the same packed audio and weights.

    tools/compare_extraction.py --wespeaker SNAPSHOT [--python PYTHON] [--data data/mini] [--blocks 10] [--work DIR]

SNAPSHOT is a checkout of WeSpeaker; PYTHON runs it, by default this one (tools/serve_wespeaker_extraction.py tells what
is changed). Blocks of 20 utterances of 1 to 20 s are joined from the evaluation set of --data; 10 blocks are 200. The
network is the paper's ResNet34 on 80 bins with random weights. One thread each. Loading the network, reading audio and
writing the table of embeddings are counted for all.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import yaml

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.bench.timing import paired_ratios, quartiles
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.corpus.datadir import DataDir
from wespeaker_qm.corpus.info import CorpusInfo
from wespeaker_qm.embed.extract import Embedder, NetworkEmbedder, embed_all
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.network.onnx_graph import write_onnx
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.report.tables import markdown_table
from wespeaker_qm.speaker.onnx_network import OnnxNetwork
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.ownership import take_folder
from wespeaker_qm.utils.progress import Progress
from wespeaker_qm.utils.provenance import both_sides
from wespeaker_qm.utils.vectors import VectorTable, write_vectors

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000
UTTERANCES_A_BLOCK = 20
SHORTEST_S, LONGEST_S = 1, 20
BOUND = 1.5
EQUAL = 1e-5
"""Largest difference of embeddings, of the largest value of any."""


def prepare(data: Path, work: Path, blocks: int) -> None:
    """The audio of the comparison, and the network."""
    take_folder(work, made_before=(work / "config.yaml").exists())
    corpus = CorpusInfo.load(data)
    reader = ShardReader(data / corpus.trials[corpus.headline] / "shard.list")
    rng = np.random.default_rng(0)
    for block in range(blocks):
        folder, lengths = work / f"block{block}", rng.uniform(SHORTEST_S, LONGEST_S, UTTERANCES_A_BLOCK)
        keys = [f"u{number:02d}" for number in range(UTTERANCES_A_BLOCK)]
        for key, length_s in zip(keys, lengths, strict=True):
            parts: list[np.ndarray] = []
            while sum(map(len, parts)) < length_s * RATE:
                parts.append(reader.read(int(rng.integers(len(reader)))))
            write_wav(folder / "wav" / f"{key}.wav", np.concatenate(parts)[: int(length_s * RATE)], RATE)
        DataDir(
            wav={key: str(folder / "wav" / f"{key}.wav") for key in keys},
            speaker={key: f"s{number % 2}" for number, key in enumerate(keys)},
            duration_s=dict(zip(keys, lengths.tolist(), strict=True)),
        ).write(folder)
        pack_data_dir(folder, sample_rate=RATE, codec="wav", num_workers=1)
    torch.manual_seed(0)
    config = load_config([ROOT / "conf" / "resnet34.yaml"])
    encoder = build_encoder(config).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    checkpoint.save(encoder.state_dict(), work / "avg_model.pt")
    write_onnx(work / "model.onnx", encoder, build_fbank(config, dither=0.0), features="outside", metadata={})
    (work / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "model": "ResNet34",
                "model_args": {"feat_dim": 80, "embed_dim": 256, "pooling_func": "TSTP", "two_emb_layer": False},
                "dataset_args": {
                    "resample_rate": RATE,
                    "fbank_args": {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": 1.0},
                },
            }
        )
    )


class Wespeaker:
    """WeSpeaker's extract.py in a process of its own."""

    def __init__(self, python: str, snapshot: Path, work: Path) -> None:
        server = ROOT / "tools" / "serve_wespeaker_extraction.py"
        command = [python, str(server), str(snapshot), str(work / "config.yaml"), str(work / "avg_model.pt")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise SystemExit("WeSpeaker's extraction ended; its message stands above")
        return line

    def __call__(self, folder: Path) -> float:
        """Extract a block; CPU seconds."""
        print(folder / "shard.list", folder / "wespeaker" / "xvector.ark", file=self.process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def pytorch(work: Path, config: Config) -> Embedder:
    """What stage 4 embeds with."""
    encoder = build_encoder(config)
    checkpoint.load_encoder(encoder, checkpoint.load(work / "avg_model.pt"), work / "avg_model.pt")
    return NetworkEmbedder(encoder, build_fbank(config, dither=0.0), torch.device("cpu"))


def onnx(work: Path, config: Config) -> Embedder:
    """What ``embed --model model.onnx`` embeds with."""
    network = OnnxNetwork(work / "model.onnx", "cpu", num_threads=1)
    return lambda waveforms: network.embed([waveform[:] for waveform in waveforms])


def extract(name: str, make: Callable[[Path, Config], Embedder], work: Path, config: Config, folder: Path) -> float:
    """Extract a block with one of ours; CPU seconds."""
    start = time.process_time()
    reader = ShardReader(folder / "shard.list")
    shift = build_fbank(config, dither=0.0).frame_shift
    embeddings = embed_all(
        make(work, config), reader, frame_shift=shift, num_workers=0, description=name, show_progress=False
    )
    write_vectors(folder / name, "xvector", reader.keys, embeddings)
    return time.process_time() - start


def largest_difference(folder: Path, one: str, other: str) -> float:
    """Of the embeddings of a block, relative to the largest value."""
    keys = ShardReader(folder / "shard.list").keys
    tables = [VectorTable(folder / name / "xvector.scp").load(keys) for name in (one, other)]
    return float(np.abs(tables[0] - tables[1]).max() / np.abs(tables[0]).max())


def main() -> int:
    """Prepare, measure in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wespeaker", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--data", type=Path, default=Path("data/mini"))
    parser.add_argument("--blocks", type=COUNT, default=10)
    parser.add_argument("--work", type=Path, default=Path("/tmp/compare_extraction"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepare(args.data, args.work, args.blocks)
    config = load_config([ROOT / "conf" / "resnet34.yaml"])
    ours: Mapping[str, Callable[[Path, Config], Embedder]] = {"pytorch": pytorch, "onnx": onnx}
    theirs = Wespeaker(args.python, args.wespeaker, args.work)
    times_s: dict[str, list[float]] = {"wespeaker": [], **{name: [] for name in ours}}
    worst = dict.fromkeys(ours, 0.0)
    for block in Progress(range(args.blocks), desc="blocks", unit="block"):
        folder = args.work / f"block{block}"
        times_s["wespeaker"].append(theirs(folder))
        for name, make in ours.items():
            times_s[name].append(extract(name, make, args.work, config, folder))
            worst[name] = max(worst[name], largest_difference(folder, "wespeaker", name))
    theirs.close()
    rows, is_met = [], True
    for name in ours:
        ratio = paired_ratios(times_s["wespeaker"], times_s[name])
        is_met &= ratio.median >= BOUND and worst[name] <= EQUAL
        medians = [f"{quartiles(times_s[key]).median / UTTERANCES_A_BLOCK:.3f}" for key in ("wespeaker", name)]
        verdict = "met" if ratio.median >= BOUND else "NOT met"
        rows.append([name, *medians, *(f"{value:.2f}" for value in ratio), f"{BOUND}", verdict, f"{worst[name]:.1e}"])
    print(f"CPU time of an utterance, one thread, in turn, {args.blocks * UTTERANCES_A_BLOCK} utterances:\n")
    header = ["ours", "WeSpeaker, s", "ours, s", "lower quartile", "ratio", "upper quartile", "bound", "", "difference"]
    print(markdown_table(header, rows))
    print(both_sides(args.python, args.wespeaker))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
