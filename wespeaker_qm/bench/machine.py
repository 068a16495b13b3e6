"""What the figures of a benchmark depend on, beside what was measured."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from wespeaker_qm.utils.provenance import provenance


def machine_facts() -> list[str]:
    """Command, processor and versions, as lines of a Markdown list."""
    made_with = provenance()
    return [
        f"- command: `{made_with['command']}`, commit {made_with['commit']}",
        f"- CPU: {_cpu_model()}",
        f"- PyTorch {torch.__version__}, Python {made_with['python']}, {made_with['system']}",
    ]


def gpu_facts() -> list[str]:
    """The CUDA device and what programs it, as lines of a Markdown list."""
    properties = torch.cuda.get_device_properties("cuda")
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = "not installed"
    memory = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    return [f"- GPU: {properties.name}, {memory}; CUDA {torch.version.cuda}, Triton {triton}"]


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
