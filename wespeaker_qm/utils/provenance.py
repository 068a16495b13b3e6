"""What a result was made with: command, commit, versions, machine."""

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import wespeaker_qm

PACKAGES = ("torch", "torchaudio", "numpy", "scipy", "soundfile", "kaldiio")
DECIDING = ("numpy", "scipy", "scikit-learn", "torch", "torchaudio", "kaldiio", "onnxruntime")
"""Packages that decide how fast an environment is."""


def git_commit(folder: Path = Path(wespeaker_qm.__file__).parent) -> str:
    """The commit of a checkout, by default the one this package runs from.

    With ``-dirty`` for local changes; ``unknown`` where it is none.
    """
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()


def provenance() -> dict[str, object]:
    """Command line, time, commit, versions and machine, as plain values for JSON."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "wespeaker_qm": wespeaker_qm.__version__,
        "python": platform.python_version(),
        "versions": versions,
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
    }


def both_sides(python: str | Path, snapshot: Path) -> str:
    """Versions of this environment, and of the one that runs a peer's code: without them a ratio tells little.

    Args:
        python: interpreter that runs the peer's code.
        snapshot: checkout of the peer's code.
    """
    code = (
        "import platform; from importlib import metadata; found = {p.metadata['Name']: p.version for p in "
        "metadata.distributions()}; print('Python ' + platform.python_version(), *(f'{name} {found[name]}' for name in "
        f"{DECIDING} if name in found), sep=', ')"
    )
    lines = []
    for side, interpreter, folder in (
        ("ours", sys.executable, Path(wespeaker_qm.__file__).parent),
        ("the other side", python, snapshot),
    ):
        versions = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, check=True).stdout
        lines.append(f"{side}: {versions.strip()}, commit {git_commit(folder)}")
    return "\n".join(lines)
