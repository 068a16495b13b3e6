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


def git_commit() -> str:
    """The commit of the checkout this package runs from, with ``-dirty`` for local changes, or ``unknown``."""
    folder = Path(wespeaker_qm.__file__).parent
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
