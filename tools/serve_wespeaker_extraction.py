#!/usr/bin/env python3
"""WeSpeaker's own extract.py on the CPU, for tools/compare_extraction.py.

    PYTHON tools/serve_wespeaker_extraction.py SNAPSHOT CONFIG WEIGHTS

Reads `SHARD_LIST ARK` lines from standard input, extracts that list with it, and writes a line: CPU seconds.

What is changed, in memory: the device (it knows only CUDA), reading in this process rather than in workers (their CPU
time would not be counted), and its frontends but fbank, which need packages that fbank does not. Where torchaudio reads
no files (2.9 and later, without torchcodec), soundfile reads in its place, which takes no longer.
"""

import contextlib
import os
import sys
import time
import types
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import soundfile  # noqa: E402
import torch  # noqa: E402
import torchaudio  # noqa: E402

CHANGES = {
    'torch.device("cuda")': 'torch.device("cpu")',
    "prefetch_factor=4)": "prefetch_factor=None)",
}


class Frontends(types.ModuleType):
    """A package of which every name is there, and none does anything."""

    __path__: list[str] = []  # noqa: RUF012 (what makes it a package)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def read(source, **_):
    """What torchaudio.load gives: (1, S) float32, sample rate."""
    waveform, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
    return torch.from_numpy(waveform.T), sample_rate


torch.set_num_threads(1)
snapshot, config, weights = sys.argv[1:]
# The package's own __init__ imports its command line, which needs much that extraction does not.
package = types.ModuleType("wespeaker")
package.__path__ = [f"{snapshot}/wespeaker"]
sys.modules |= {"wespeaker": package, "fire": types.ModuleType("fire")}
for name in ("wespeaker.frontend", "wespeaker.frontend.tfmel"):
    sys.modules[name] = Frontends(name)
sys.modules["wespeaker.frontend"].frontend_class_dict = {"fbank": None}  # type: ignore[attr-defined]
sys.modules["wespeaker.frontend"].__all__ = ["frontend_class_dict"]  # type: ignore[attr-defined]
torchaudio.load = read
source = Path(snapshot, "wespeaker", "bin", "extract.py").read_text(encoding="utf-8")
for theirs, ours in CHANGES.items():
    if theirs not in source:
        raise SystemExit(f"{snapshot}: its extract.py has no {theirs!r}, expected WeSpeaker dfa7419 or one like it")
    source = source.replace(theirs, ours)
namespace = {"__name__": "wespeaker.bin.extract"}
exec(compile(source, "extract.py", "exec"), namespace)
print("ready", flush=True)
for line in sys.stdin:
    shard_list, ark = line.split()
    start = time.process_time()
    with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
        namespace["extract"](  # type: ignore[operator]
            config,
            model_path=weights,
            data_type="shard",
            data_list=shard_list,
            embed_ark=ark,
            batch_size=1,
            num_workers=0,
        )
    print(time.process_time() - start, flush=True)
