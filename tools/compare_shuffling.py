#!/usr/bin/env python3
"""Compare the time of an epoch's reading from a cold disk: shuffled as a whole, and within windows of shards.

    tools/compare_shuffling.py SET [--shard_window 4] [--rounds 3]

SET is a packed set of many shards (`wespeaker-qm pack --utterances_per_shard N`), e.g. data/mini/train. Before each
epoch the kernel is asked to forget the tars (posix_fadvise). A chunk of 2 s is read of each utterance, as training
does; shorter ones are read whole. The two orders take turns.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from wespeaker_qm.bench.timing import paired_ratios
from wespeaker_qm.dataset.plan import epoch_order
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.utils.arguments import COUNT
from wespeaker_qm.utils.errors import counted
from wespeaker_qm.utils.progress import Progress

CHUNK_S = 2.015
"""200 frames."""


def forget(reader: ShardReader) -> None:
    """Drop the tars from the page cache."""
    for tar in reader.index.tars:
        descriptor = os.open(tar, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_epoch(reader: ShardReader, order: np.ndarray) -> float:
    """Seconds that reading a chunk of each utterance takes."""
    pcm = np.empty(int(CHUNK_S * reader.sample_rate), dtype=np.int16)
    lengths = reader.num_samples
    forget(reader)
    started = time.perf_counter()
    for i in order.tolist():
        reader.read_pcm(i, 0, pcm[: lengths[i]])
    return time.perf_counter() - started


def main() -> None:
    """Read epochs in both orders, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path, metavar="SET")
    parser.add_argument("--shard_window", type=COUNT, default=4)
    parser.add_argument("--rounds", type=COUNT, default=3)
    args = parser.parse_args()
    reader = ShardReader(args.set / "shard.list")
    shards = reader.index.records["shard"]
    times_s: dict[str, list[float]] = {"whole": [], "window": []}
    for epoch in Progress(range(1, args.rounds + 1), unit="round"):
        for name, window in (("whole", 0), ("window", args.shard_window)):
            order = epoch_order(
                shards,
                sampler="utterance",
                num_samples=len(shards),
                seed=0,
                epoch=epoch,
                shards=shards,
                shard_window=window,
            )
            times_s[name].append(read_epoch(reader, order))
    ratio = paired_ratios(times_s["whole"], times_s["window"])
    num_bytes = sum(tar.stat().st_size for tar in reader.index.tars)
    tars = counted(len(reader.index.tars), "shard", "shards")
    print(f"{counted(len(shards), 'utterance', 'utterances')} in {tars}, {num_bytes / 1e6:,.0f} MB")
    for name, seconds in times_s.items():
        print(f"{name}: {1e3 * np.median(seconds) / len(shards):.3f} ms a chunk")
    print(f"whole / window of {args.shard_window}: {ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})")


if __name__ == "__main__":
    main()
