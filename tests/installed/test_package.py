"""The package as others get it: built, installed outside the checkout in fresh environments, and used there."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.installed, pytest.mark.timeout(900)]


def run(*command, cwd):
    """Standard output of a command that sees nothing of the checkout; it must succeed."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--outdir", "dist", cwd=source)
    return source


def wheel_of(source):
    (wheel,) = (source / "dist").glob("*.whl")
    return wheel


class Installed:
    """A fresh environment with the wheel, and a folder to work in."""

    def __init__(self, folder):
        self.bin = folder / "env" / "bin"
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        venv.create(folder / "env", with_pip=True)

    def pip(self, *options):
        run(self.bin / "python", "-m", "pip", "install", "-q", *options, cwd=self.folder)

    def python(self, code):
        return run(self.bin / "python", "-W", "error", "-c", code, cwd=self.folder)

    def wespeaker_qm(self, *arguments):
        return run(self.bin / "wespeaker-qm", *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def evaluation(built, tmp_path_factory):
    """The wheel with the extra `eval`: there is no torch."""
    installed = Installed(tmp_path_factory.mktemp("evaluation"))
    installed.pip("-c", ROOT / "constraints.txt", f"{wheel_of(built)}[eval]")
    return installed


@pytest.fixture(scope="module")
def training(built, tmp_path_factory):
    """The wheel, and the packages of the environment that runs the tests, but not the checkout."""
    installed = Installed(tmp_path_factory.mktemp("training"))
    installed.pip("--no-deps", wheel_of(built))
    (own,) = (installed.bin.parent / "lib").glob("python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (own / "packages_of_the_tests.pth").write_text("".join(f"{path}\n" for path in packages))
    return installed


def test_the_source_distribution_is_whole(built):
    (archive,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as contents:
        packed = {name.partition("/")[2] for name in contents.getnames()}
    tracked = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file() and "dist" not in path.parts}
    built_here = {path for path in tracked if ".egg-info" in path}
    development = {
        *(str(path.relative_to(built)) for path in (built / ".github").rglob("*.yml")),
        ".gitignore",
        ".pre-commit-config.yaml",
        ".ci/run",
    }
    assert tracked - built_here - development <= packed


def test_the_wheel_brings_configurations_tables_and_types(built):
    with zipfile.ZipFile(wheel_of(built)) as contents:
        packed = set(contents.namelist())
    for folder in ("conf", "egs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"wespeaker_qm/{path.relative_to(ROOT)}" in packed
    assert {"wespeaker_qm/py.typed", "wespeaker_qm/losses/__init__.pyi", "wespeaker_qm/report/template.html"} <= packed
    assert {name.partition("/")[0].partition("-")[0] for name in packed} == {"wespeaker_qm"}


def test_what_an_earlier_build_left_is_not_in_a_wheel_that_is_built_in_place(built):
    stale = built / "build" / "lib" / "wespeaker_qm" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run(sys.executable, "-m", "build", "--wheel", "--outdir", "in_place", cwd=built)
    (wheel,) = (built / "in_place").glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        assert "wespeaker_qm/gone.py" not in contents.namelist()
    for folder in ("build", "in_place"):
        shutil.rmtree(built / folder)


def test_evaluation_without_torch(evaluation):
    rng = random.Random(1)
    lines = []
    for number in range(400):
        one, other = rng.sample(range(20), 2) if number % 4 else [number % 20] * 2
        score = rng.gauss(0 if number % 4 else 2, 1)
        label = "nontarget" if number % 4 else "target"
        lines.append(f"s{one:02d}/a{number} s{other:02d}/b{number} {score:.6f} {label}\n")
    (evaluation.folder / "near.score").write_text("".join(lines))
    evaluation.wespeaker_qm("metrics", "near.score", "--num_resamples", "50", "--det", "det", "--json", "figures.json")
    assert "eer" in json.dumps(json.loads((evaluation.folder / "figures.json").read_text()))
    assert (evaluation.folder / "det.png").is_file()
    assert "needs torch: pip install 'wespeaker_qm[train]'" in evaluation.wespeaker_qm("--help")
    evaluation.pip("--no-index", "wespeaker_qm[eval]")  # as such a line says: the package itself is not looked for
    assert "conf/loss/qmargin_a1.5.yaml" in evaluation.wespeaker_qm("table5", "--list_losses", "true")
    evaluation.python(
        "import numpy, sys, wespeaker_qm\n"
        "roc = wespeaker_qm.evaluate.roc_steps(numpy.array([3.0, 2.0, 1.0]), numpy.array([True, False, True]))\n"
        "assert wespeaker_qm.evaluate.equal_error_rate(roc).rate == 0.5\n"
        "assert 'torch' not in sys.modules"
    )


def test_losses_in_somebody_elses_training(training):
    training.python(
        "import torch\n"
        "from wespeaker_qm.losses import QMarginHead, alpha_softargmax\n"
        "head = QMarginHead(8, 5, scale=10.0, alpha=1.5)\n"
        "head(torch.randn(4, 8), torch.tensor([0, 1, 2, 3]), 0.1).loss.mean().backward()\n"
        "assert head.weight.grad.any()\n"
        "assert alpha_softargmax(torch.tensor([[9.0, 0.0]]), 2.0).tolist() == [[1.0, 0.0]]"
    )


def test_own_recordings_from_preparation_to_scores(training):
    """Outside the checkout: corpora and configurations are found in the package."""
    rng = np.random.default_rng(0)
    time_s = np.arange(2 * 16000) / 16000
    for speaker in range(12):
        folder = training.folder / "recordings" / f"speaker{speaker:02d}"
        folder.mkdir(parents=True)
        for utterance in range(6):
            tone = np.sin(2 * math.pi * (100 + 20 * speaker) * time_s) * rng.uniform(0.2, 0.5)
            noise = 0.05 * rng.standard_normal(len(time_s))
            soundfile.write(folder / f"{utterance}.wav", (tone + noise).astype(np.float32), 16000)
    data, exp = ["--data", "data/own"], ["--exp_dir", "exp/own"]
    assert "--audio_root" in training.wespeaker_qm("prepare", "--corpus", "egs/folder", "--help")
    options = ["--audio_root", "recordings", "--noise", "babble", "--num_rooms", "2"]
    training.wespeaker_qm("prepare", "--corpus", "egs/folder", *data, *options)
    training.wespeaker_qm("pack", *data)
    tiny = ["num_epochs=1", "num_avg=1", "dataset_args.num_frms=50", "dataloader_args.batch_size=4"]
    tiny += ["dataset_args.sample_num_per_epoch=16", "dataloader_args.num_workers=0", "model_args.m_channels=8"]
    config = ["--config", "conf/resnet34.yaml", "conf/loss/qmargin_a1.5.yaml"]
    training.wespeaker_qm("train", *data, *exp, *config, "--set", *tiny)
    for stage in ("average", "extract", "score"):
        training.wespeaker_qm(stage, *exp, *([] if stage == "average" else data))
    assert list((training.folder / "exp" / "own" / "scores").glob("*.score"))
