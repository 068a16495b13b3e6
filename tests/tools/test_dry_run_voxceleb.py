"""The dry run of the loader at VoxCeleb's size, at a small one."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_rank_starts_its_workers(tmp_path: Path) -> None:
    options = ["--utterances", "2500", "--ranks", "2", "--workers", "2", "--work", str(tmp_path)]
    program = [sys.executable, str(ROOT / "tools" / "dry_run_voxceleb.py"), *options]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    assert "2,500 utterances, 2 ranks of 2 workers" in done.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line][2:]
    assert [row[0] for row in rows] == ["0", "1"]
    assert all(0 < float(row[-1]) < 300 for row in rows)  # MiB that a worker has to itself
