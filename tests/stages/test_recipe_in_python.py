"""The whole of run.sh as calls of Python: they leave what the command line leaves."""

import contextlib
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.utils.layout import LATEST_MODEL, DataFolder, ExpRoot, RunFolder

RATE = 16000
CONFIG = """
device: cpu
num_threads: 1
num_epochs: 2
num_avg: 2
save_epoch_interval: 1
valid_epoch_interval: 2
dataloader_args: {batch_size: 8, num_workers: 0}
dataset_args:
  num_frms: 40
  filter_args: {min_num_frames: 40}
  fbank_args: {num_mel_bins: 16}
model_args: {feat_dim: 16, embed_dim: 8, m_channels: 4}
projection_args: {project_type: q_margin, scale: 10.0, alpha: 1.5}
scheduler_args: {warm_up_epoch: 1}
"""
RECIPE = {
    "eval_speakers": 0.4,
    "valid_speakers": 0.4,
    "noise": "babble",
    "num_babble": 2,
    "num_rooms": 2,
}
BASELINES = {"untrained": "exp/tiny/run/untrained", "ltas": "exp/tiny/ltas"}
TIMES = {"provenance", "time", "minutes", "samples_per_s", "wait_s", "speed", "tar_times", "sha256"}
"""In JSON, keys of what no two runs have in common."""
PICTURES = (".png", ".pdf", ".html", ".md", ".crc32", ".zip", ".onnx")
"""And what else holds a time, or the checksum of such a file."""


@pytest.fixture
def recordings(tmp_path):
    """Nine speakers, each with a pitch and a colour, with four recordings of about a second."""
    rng = np.random.default_rng(5)
    for speaker in range(9):
        harmonics = rng.uniform(0, 1, 20)
        for take in range(4):
            time_s = np.arange(int(rng.uniform(0.9, 1.4) * RATE)) / RATE
            phase = 2 * np.pi * (90 + 17 * speaker) * time_s
            wave = sum(weight * np.sin((k + 1) * phase) for k, weight in enumerate(harmonics)) / 20
            path = tmp_path / "recordings" / f"s{speaker}" / f"u{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave + 0.01 * rng.standard_normal(len(time_s)), RATE)
    return tmp_path / "recordings"


def by_command_line(repository, recordings):
    options = [text for name, value in RECIPE.items() for text in (f"--{name}", str(value))]
    corpus = ["--corpus", str(repository / "egs/folder"), "--audio_root", str(recordings)]
    place = ["--data", "data/tiny", "--exp_dir"]
    run, ltas = [*place, "exp/tiny/run"], [*place, "exp/tiny/ltas"]
    for command in (
        ["prepare", *corpus, "--data", "data/tiny", "--num_workers", "1", *options],
        ["pack", "--data", "data/tiny", "--num_workers", "1"],
        ["train", *run, "--config", "tiny.yaml", "--set", "seed=3"],
        ["average", "--exp_dir", "exp/tiny/run"],
        ["extract", *run],
        ["extract", *run, "--untrained"],
        ["extract", *run, "--initial"],
        ["extract", *ltas, "--ltas"],
        ["score", *run],
        ["score", *place, "exp/tiny/run/untrained"],
        ["score", *ltas],
        ["normalise", *run, "--top_n", "2"],
        ["calibrate", *run],
        ["evaluate", *run, "--num_resamples", "20", *(f"--baseline={name}={path}" for name, path in BASELINES.items())],
        ["report", *run, "--base", "tiny.yaml"],
        ["export", *run, "--num_resamples", "20"],
    ):
        assert main(command) == 0, command


def by_calls(repository, recordings):
    data, root = DataFolder("data/tiny"), ExpRoot("exp/tiny")
    run = root.run("run")
    options = {**RECIPE, "eval_speakers": str(RECIPE["eval_speakers"]), "audio_root": str(recordings)}
    stages.prepare(recipe_dir=repository / "egs/folder", data=data, options=options)
    stages.pack(data=data)
    stages.train(data=data, run=run, config=["tiny.yaml"], overrides=["seed=3"])
    stages.average(run=run)
    for system in ("average", "untrained", "initial"):
        stages.extract(data=data, run=run, system=system)
    stages.extract(data=data, run=root.ltas, system="ltas")
    for system in (run, run.untrained, root.ltas):
        stages.score(data=data, run=system)
    stages.normalise(data=data, run=run, top_n=2)
    stages.calibrate(data=data, run=run)
    baselines = {name: RunFolder(path) for name, path in BASELINES.items()}
    stages.evaluate(data=data, run=run, baselines=baselines, num_resamples=20)
    stages.report(data=data, runs=[run], base=Path("tiny.yaml"))
    stages.export(data=data, run=run, num_resamples=20, latest=LATEST_MODEL)
    stages.export_onnx(data=data, run=run, if_possible=True)


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def contents(root):
    """File -> what two runs must have in common of it: of pictures, and of what holds times, only that it is there."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root)
        if {"log", "tensorboard"} & set(name.parts):
            continue
        elif ".done" in name.parts:
            found[name] = json.loads(path.read_text())["inputs"].keys()
        elif path.suffix in PICTURES or path.name in ("provenance.json", ".lock") or "resume" in name.parts:
            found[name] = None
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


def test_the_calls_leave_what_the_commands_leave(repository, recordings, tmp_path, caplog, monkeypatch):
    folder, found = tmp_path / "work", []
    for make in (by_command_line, by_calls):  # in folders of one name, because tables hold paths
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "tiny.yaml").write_text(CONFIG)
        with contextlib.chdir(folder):
            make(repository, recordings)
        found.append(contents(folder))
    by_commands, by_python = found
    assert by_commands.keys() == by_python.keys()
    for name, content in by_commands.items():
        assert content == by_python[name], name
    assert {Path("exp/tiny/run/report.html"), Path("exp/tiny/run/scores/all.calibrated.score")} <= by_python.keys()

    caplog.set_level("INFO", logger="wespeaker_qm")
    monkeypatch.setattr(logging.getLogger("wespeaker_qm"), "handlers", [caplog.handler])  # main() set others up
    with contextlib.chdir(folder):
        by_calls(repository, recordings)
    for stage in (
        "prepare",
        "pack",
        "train",
        "average",
        "extract eval",
        "score",
        "normalise",
        "evaluate",
        "report",
        "export",
    ):
        assert re.search(f"stage {stage}: .*nothing changed since the last run, skipped", caplog.text), stage
    assert "done again" not in caplog.text
