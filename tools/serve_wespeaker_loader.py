#!/usr/bin/env python3
"""WeSpeaker's own loader, for tools/compare_loaders.py: runs under an interpreter that has torchaudio with sox.

    PYTHON tools/serve_wespeaker_loader.py SNAPSHOT SHARD_LIST RIRS_LMDB NOISE_LMDB SHUFFLE_SIZE

Reads a number of samples from standard input, makes them, and writes a line: CPU seconds, seconds, peak MiB.
"""

import sys
import time
import types
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import torch  # noqa: E402

torch.set_num_threads(1)
snapshot, shard_list, rirs, noise, shuffle_size = sys.argv[1:]
# The package's own __init__ imports its command line, which needs much that its loader does not.
package = types.ModuleType("wespeaker")
package.__path__ = [f"{snapshot}/wespeaker"]
sys.modules["wespeaker"] = package
from wespeaker.dataset.dataset import Dataset  # type: ignore[import-not-found]  # noqa: E402

CONFIG = {
    "shuffle": True,
    "shuffle_args": {"shuffle_size": int(shuffle_size)},
    "filter": True,
    "filter_args": {"min_num_frames": 100, "max_num_frames": 3000},
    "resample_rate": 16000,
    "speed_perturb": True,
    "num_frms": 200,
    "aug_prob": 0.6,
    "fbank_args": {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": 1.0},
}
dataset = Dataset(
    "shard", shard_list, CONFIG, {"speaker": 0}, whole_utt=False, reverb_lmdb_file=rirs, noise_lmdb_file=noise
)
samples = None
print("ready", flush=True)
for line in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    if samples is None:
        samples = iter(dataset)
    for _ in range(int(line)):
        if tuple(next(samples)["feat"].shape) != (200, 80):
            raise ValueError("found features of another shape, expected 200 frames of 80 bins")
    cpu_s, elapsed_s = time.process_time() - cpu_start, time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak_kib,) = (row.split()[1] for row in status if row.startswith("VmHWM"))
    print(cpu_s, elapsed_s, int(peak_kib) / 1024, flush=True)
