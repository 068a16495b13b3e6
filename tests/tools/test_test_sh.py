"""tools/test.sh: what it hands to pytest. A stub stands for the interpreter; nothing is checked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "handed_on"),
    [
        ([], ""),
        (["quick"], " -m not recipe and not installed"),
        (["-k", "head or loss", "tests/losses"], " -k head or loss tests/losses"),
        (["quick", "-n", "1"], " -m not recipe and not installed -n 1"),
    ],
)
def test_further_options_are_pytests(tmp_path, options, handed_on):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "path.sh", tmp_path)
    shutil.copy(ROOT / "tools" / "test.sh", tmp_path / "tools")
    calls = tmp_path / "calls"
    for name in ("python", "chromium"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f'#!/bin/bash\necho "$*" >> {calls}\n')
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PYTHON": str(tmp_path / "bin" / "python"), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    subprocess.run([tmp_path / "tools" / "test.sh", *options], env=environment, check=True, capture_output=True)
    assert calls.read_text().splitlines()[1:] == [
        *("-m ruff check .", "-m ruff format --check .", "-m mypy"),
        f"-m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 10{handed_on}",
    ]
