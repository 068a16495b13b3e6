"""run.sh itself, stages 1 to 7, on five real voices from the smallest packages: once, again, and interrupted.

The network is tiny and learns nothing; what is tested is that every stage does its work, does it once, and that a
killed training goes on as if nothing had happened.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.yaml"
PACKAGES = "saytime,asterisk-prompt-es-co,asterisk-prompt-fr-armelle,gcin-voice"
LOSSES_OF_TABLE_5 = ["arcface", "entmax_a2.0", "qmargin_a1.5"]
"""A dense one, a sparse one and that of the first run; every row more takes another half a minute."""
RUN = "qmargin_a1.5"

pytestmark = [pytest.mark.recipe, pytest.mark.timeout(900)]


class Recipe:
    """run.sh with its data and results in a folder of their own."""

    def __init__(self, folder: Path, *options: str, checkout: Path = ROOT) -> None:
        self.data = folder / "data" / "tiny"
        self.exp = folder / "exp" / "tiny"
        config = f"{ROOT / 'conf' / 'resnet34.yaml'} {TINY}"
        self.command = [checkout / "run.sh", "--data", self.data, "--exp_root", self.exp, "--config", config, *options]

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> str:
        process = self.start(*options)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def contents(self) -> dict[str, tuple[int, int]]:
        """Every artefact with size and modification time; logs grow with each run and do not count."""
        files = [path for folder in (self.data, self.exp) for path in folder.rglob("*") if path.is_file()]
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.parent.name != "log"
        }


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    options = f"--packages {PACKAGES} --max_utterances_per_speaker 6 --num_rooms 3"
    return Recipe(tmp_path_factory.mktemp("mini"), "--prepare_opts", options)


@pytest.fixture(scope="module")
def first_output(mini):
    return mini.run("--loss", f"conf/loss/{RUN}.yaml")


def weights(path):
    return torch.load(path, weights_only=True)


def assert_equal_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_every_stage_leaves_its_files(mini, first_output):
    for number in range(1, 6):
        assert f"Stage {number}: " in first_output
    run = mini.exp / RUN
    files = ["config.yaml", "provenance.json", "train_log.jsonl", "models/model_3.pt", "models/avg_model.pt"]
    files += [
        "metrics.json",
        "report.md",
        "report.html",
        "scores/all.asnorm.score",
        "det.png",
        "det.pdf",
        "embeddings/mean_vec.npy",
        "scores/all.score",
    ]
    files += [f"log/{name}.log" for name in ("train", "average", "extract", "score", "evaluate")]
    for file in files:
        assert (run / file).stat().st_size > 0, file
    for stage in ("prepare", "pack"):
        assert (mini.exp / "log" / f"{stage}.log").stat().st_size > 0
    for baseline in (mini.exp / "ltas", run / "untrained"):
        assert (baseline / "scores" / "all.score").is_file()


def test_embeddings_scores_and_report_agree(mini, first_output):
    run = mini.exp / RUN
    embeddings = kaldiio.load_scp(str(run / "embeddings" / "eval" / "xvector.scp"))
    keys = [line.split()[0] for line in (mini.data / "eval" / "wav.scp").read_text().splitlines()]
    assert sorted(embeddings) == sorted(keys)
    mean = np.load(run / "embeddings" / "mean_vec.npy")
    lines = [line.split() for line in (run / "scores" / "all.score").read_text().splitlines()]
    assert len(lines) == len((mini.data / "trials" / "all").read_text().splitlines())
    for enrolment, test, score, label in lines[:5]:
        one, other = embeddings[enrolment] - mean, embeddings[test] - mean
        assert float(score) == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-5)
        assert label in {"target", "nontarget"}
    metrics = json.loads((run / "metrics.json").read_text())
    report = (run / "report.md").read_text()
    assert metrics
    assert "untrained" in report
    assert "ltas" in report.lower()


def test_the_second_run_skips_everything(mini, first_output):
    before = mini.contents()
    output = mini.run("--loss", f"conf/loss/{RUN}.yaml")
    assert mini.contents() == before
    skipped = re.findall(r"^stage (\w+).*: nothing changed since the last run, skipped", output, re.MULTILINE)
    stages = {"prepare", "pack", "train", "average", "extract", "score", "normalise", "evaluate", "report", "export"}
    assert set(skipped) == stages, output


def test_a_killed_training_goes_on_with_the_same_result(mini, first_output):
    run = mini.exp / "killed"
    options = ["--loss", f"conf/loss/{RUN}.yaml", "--exp_dir", str(run), "--stage", "3", "--stop_stage", "3"]
    process = mini.start(*options)
    while not (run / "models" / "model_1.pt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run / "models" / "model_3.pt").exists(), "the training was over before it could be killed"
    mini.run(*options)
    for name in ("model_1.pt", "model_2.pt", "model_3.pt"):
        assert_equal_weights(run / "models" / name, mini.exp / RUN / "models" / name)
    same = subprocess.run(
        [sys.executable, ROOT / "tools" / "compare_runs.py", mini.exp / RUN, run], capture_output=True, text=True
    )
    assert same.returncode == 0, same.stdout + same.stderr


def test_another_loss_is_another_run(mini, first_output):
    options = ["--loss", "conf/loss/cosface.yaml", "--stage", "3", "--stop_stage", "3"]
    mini.run(*options)
    assert "project_type: add_margin" in (mini.exp / "cosface" / "config.yaml").read_text()
    cosface, qmargin = (weights(mini.exp / run / "models" / "model_3.pt") for run in ("cosface", RUN))
    assert not torch.equal(cosface["projection.weight"], qmargin["projection.weight"])
    other = subprocess.run([sys.executable, ROOT / "tools" / "compare_runs.py", mini.exp / RUN, mini.exp / "cosface"])
    assert other.returncode == 1


def test_two_processes_train_together(mini, first_output):
    run = mini.exp / "two"
    options = ["--exp_dir", str(run), "--stage", "3", "--stop_stage", "3", "--num_processes", "2"]
    output = mini.run(*options, "--overrides", "num_epochs=1 num_avg=1 valid_epoch_interval=0")
    assert (run / "models" / "model_1.pt").is_file(), output


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_a_typo_trains_nothing(mini, first_output, num_processes):
    run = mini.exp / "typo"
    options = ["--exp_dir", str(run), "--num_processes", num_processes, "--overrides", "projection_args.sclae=32"]
    process = mini.start("--stage", "3", *options)
    output, _ = process.communicate()
    assert process.returncode == 1
    told = [line for line in output.splitlines() if "command line: projection_args.sclae: unknown key" in line]
    assert told == output.splitlines()[-1:], "once, and last"
    assert "Stage 4" not in output
    assert not (run / "models").exists()


@pytest.fixture
def short_table(tmp_path):
    """A checkout like this one, but for the rows of conf/table5.yaml."""
    for path in ROOT.iterdir():
        if path.name not in ("conf", "data", "exp", "downloads", ".git"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    table = tmp_path / "conf" / "table5.yaml"
    content = yaml.safe_load(table.read_text())
    content["rows"] = [row for row in content["rows"] if Path(row["loss"]).stem in LOSSES_OF_TABLE_5]
    table.write_text(yaml.safe_dump(content))
    return tmp_path


def test_table_5_trains_its_rows_and_reuses_what_is_there(mini, first_output, short_table):
    output = Recipe(mini.data.parents[1], checkout=short_table).run("--stage", "3", "--table5", "true")
    assert "stage train: nothing changed since the last run, skipped" in output  # the run of the first test
    table = (mini.exp / "table5.md").read_text()
    for loss in LOSSES_OF_TABLE_5:
        assert (mini.exp / loss / "metrics.json").is_file()
    for paper in ("86.62", "74.37", "87.91"):
        assert paper in table
    assert (mini.exp / "det_table5.png").stat().st_size > 0


def test_a_miniature_voxceleb(mini, first_output, tmp_path):
    """The same voices in VoxCeleb's archives, m4a in parts and all; packed as FLAC."""
    root = tmp_path / "vox root"
    command = [sys.executable, ROOT / "tools" / "make_miniature_voxceleb.py", "--data", mini.data, "--out", root]
    subprocess.run(command, check=True)
    recipe = Recipe(tmp_path, "--corpus", "egs/voxceleb", "--vox_root", str(root), "--codec", "flac")
    recipe.run("--overrides", "num_epochs=1 num_avg=1", "--loss", f"conf/loss/{RUN}.yaml")
    report = (recipe.exp / RUN / "report.md").read_text()
    assert "A subset of VoxCeleb (3 training and 2 evaluation speakers)" in report
    assert "vox1_H_cleaned" in report
    shutil.rmtree(tmp_path)


def test_ones_own_recordings(mini, first_output, tmp_path):
    """The voices of the first test as a folder of files at 8 kHz, in stereo, and in another format."""
    for set_name, suffix in (("train", "flac"), ("eval", "wav")):
        for line in (mini.data / set_name / "utt2spk").read_text().splitlines():
            key, speaker = line.split()
            waveform, sample_rate = soundfile.read(mini.data / "wav" / set_name / speaker / f"{key}.wav")
            assert sample_rate == 16000
            target = tmp_path / "voices" / speaker / f"{key}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "wav":
                soundfile.write(target, waveform[::2], 8000)
            else:
                soundfile.write(target, np.stack([waveform, waveform], axis=1), sample_rate)
    options = f"--audio_root {tmp_path / 'voices'} --eval_speakers ast_armelle,gc_lo --noise babble --num_rooms 3"
    recipe = Recipe(tmp_path, "--corpus", "egs/folder", "--prepare_opts", options)
    recipe.run("--overrides", "num_epochs=1 num_avg=1")
    assert (recipe.exp / "tiny" / "metrics.json").is_file()
    shutil.rmtree(tmp_path)
