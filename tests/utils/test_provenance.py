"""What a result was made with."""

import json
import subprocess
import sys
from pathlib import Path

from wespeaker_qm.utils.provenance import both_sides, provenance


def test_provenance_is_plain_and_complete() -> None:
    record = json.loads(json.dumps(provenance()))
    assert record["commit"]
    assert record["command"]
    assert set(record["versions"]) == {"torch", "torchaudio", "numpy", "scipy", "soundfile", "kaldiio"}
    assert record["versions"]["torch"] != "not installed"


def test_both_sides_of_a_comparison(tmp_path: Path) -> None:
    for command in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    head = subprocess.run(
        ["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    ours, theirs = both_sides(sys.executable, tmp_path).splitlines()
    assert ours.startswith("ours: Python 3.")
    assert ", torch " in ours and ", numpy " in ours
    assert theirs == f"the other side: {ours.removeprefix('ours: ').partition(', commit')[0]}, commit {head[:12]}"
