"""Scoring and evaluation where only the extra `eval` is installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wespeaker_qm.bin.main import TRAINING_PACKAGES
from wespeaker_qm.utils.extras import installation

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "requirements" / f"{name}.txt" for name in ("losses", "bench", "train")]
LINES = [line for file in FILES for line in file.read_text().splitlines()]
BLOCKED = [re.split("[<>=]", line)[0] for line in LINES if line and not line.startswith("#")]
RUN = ["--data", "data/tiny", "--exp_dir", "exp/tiny/qmargin_a1.5"]
SCORES = "exp/tiny/qmargin_a1.5/scores/near.score"
SPEAKERS = ["--utt2spk", "data/tiny/eval/utt2spk", "--num_resamples", "20"]


def run_without_recipe(*arguments):
    """The command line in a process in which the recipe's packages cannot be imported."""
    code = (
        "import importlib.abc, sys\n"
        "class Blocker(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {BLOCKED}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from wespeaker_qm.bin.main import main\n"
        f"sys.exit(main({[str(argument) for argument in arguments]}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_torch_is_blocked():
    assert "torch" in BLOCKED
    result = run_without_recipe("train", "--help")
    assert result.returncode == 1
    assert "train needs the package torch, which is not installed: " + installation("train") in result.stderr


def test_help_says_what_is_missing():
    result = run_without_recipe("--help")
    assert result.returncode == 0, result.stderr
    assert f"needs torch: {installation('train')}" in " ".join(result.stdout.split())
    assert "EER, TAR@FAR" in result.stdout


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    "arguments",
    [
        ["score", *RUN],
        ["normalise", *RUN, "--top_n", "5"],
        ["metrics", SCORES, *SPEAKERS, "--det", "det"],
        ["threshold", SCORES, "--far", "1e-1", *SPEAKERS],
        ["compare", f"a={SCORES}", "b=exp/tiny/ltas/scores/near.score", *SPEAKERS],
        ["evaluate", *RUN, "--num_resamples", "20"],
        ["report", *RUN],
    ],
    ids=lambda arguments: arguments[0],
)
def test_programs_that_need_no_model(arguments):
    result = run_without_recipe(*arguments)
    assert result.returncode == 0, result.stderr


def test_what_is_missing_comes_with_the_smallest_extra_that_has_it():
    assert set(TRAINING_PACKAGES) | {"torchaudio"} == set(BLOCKED)
    code = (
        "import sys\nsys.modules['scipy'] = None\n"
        "from wespeaker_qm.bin.main import main\nsys.exit(main(['metrics', 'a.score']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert installation("eval") in result.stderr
