"""What the figures of a benchmark depend on, beside what was measured."""

import platform
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


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
