"""Whatever is damaged in the folder of a run is found and named, and nothing else is."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import emptied, flip

from wespeaker_qm import stages
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.score.cosine import load_mean
from wespeaker_qm.train.log import LogWriter
from wespeaker_qm.utils.checksums import checksum_path, write_checked_text
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.ownership import LEDGER

RUN_FILES = (
    *("config.yaml", "models/avg_model.pt", "embeddings/eval/xvector.ark", "embeddings/eval/xvector.scp"),
    *("embeddings/mean_vec.npy", "scores/eval.score", "scores/eval.score.npz", "scores/eval.asnorm.score"),
    *("scores/calibration.json", "metrics.json", "model/weights.safetensors", "model.zip"),
)


def test_a_whole_run_has_no_findings(own_model_run: Any) -> None:
    data, run = own_model_run
    for _ in range(2):
        assert stages.verify_data(folders=[data, run]) == []
        assert stages.verify_data(folders=run.path.parent) == [], "the folder of its runs"
    assert not (run.path / ".lock").exists() or (run.path / ".lock").read_text() == ""


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_of_a_run_is_found_and_named(own_model_run: Any, name: str, damage: str) -> None:
    data, run = own_model_run
    path = run.path / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        flip(path.stat().st_size // 2)(path)
    findings = stages.verify_data(folders=[data, run])
    if damage == "gone" and name == "model.zip":
        assert findings == [], "it may be moved elsewhere"
        return
    assert len(findings) == 1, findings
    folder = name.rpartition("/")[0] if name.startswith("model/") else name
    assert str(run.path / folder) in findings[0]


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, a socket or a device, expected a file: move it away"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device, expected a file: move it"),
    "folder": (Path.mkdir, "is a folder, expected a file: move it away"),
    "link": (lambda path: path.symlink_to("nothing"), "is a link to nothing, which leads in a circle or to nothing: "),
}


FILES = (*RUN_FILES, "models/model_9.pt", "resume/step_3.pt", "resume.pt", "train_log.jsonl")


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_told_as_what_it_is(own_model_run: Any, kind: str) -> None:
    """Whether or not there is a checksum beside it."""
    run = own_model_run.run
    make, message = NO_FILES[kind]
    for name in FILES:
        path = run.path / name
        before = path.read_bytes() if path.is_file() else None
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        make(path)
        about = [finding for finding in stages.verify_data(folders=run) if f"{name}: {message}" in finding]
        assert len(about) == 1, name
        assert ".crc32" not in about[0]
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert stages.verify_data(folders=run) == []


def test_a_log_that_was_cut_after_the_evaluation(own_model_run: Any) -> None:
    """Which has recorded it: then neither checkpoints nor states need be there."""
    data, run = own_model_run
    figures = dict.fromkeys(("loss", "accuracy", "margin", "learning_rate", "minutes"), 0.5)
    numbers = [{"epoch": epoch, "step": 10 * epoch, "samples": 90 * epoch} for epoch in (1, 2, 3)]
    lines = [json.dumps({"type": "epoch", **each, **figures}) + "\n" for each in numbers]
    run.training_log.write_text("".join(lines))
    stages.evaluate(data=data, run=run, num_resamples=0)
    assert stages.verify_data(folders=[data, run]) == []
    run.training_log.write_text("".join(lines[:2]))
    (finding,) = stages.verify_data(folders=[data, run])
    assert f"{run.marker('evaluate')}: made from others than there are now (train_log.jsonl: changed)" in finding
    run.training_log.unlink()
    assert stages.verify_data(folders=[data, run]) == [], "who deletes it knows that"


def test_emptied_markers_of_a_run_are_found_and_their_remedies_work(own_model_run: Any) -> None:
    data, run = own_model_run
    markers = sorted(path for path in run.path.rglob(".done/*") if path.is_file())
    assert {"score", "evaluate", "export"} <= {path.name for path in markers}
    for path in markers:
        before = path.read_bytes()
        emptied(path)
        (finding,) = stages.verify_data(folders=[data, run])
        assert f"{path}: found an empty file, expected the record of a stage's inputs and outputs: damaged; " in finding
        assert "put back a copy of it, or let " in finding
        path.write_bytes(before)
    score = run.marker("score")
    emptied(score)
    assert "let run.sh --stage 5 make it" in stages.verify_data(folders=run)[0]
    stages.score(data=data, run=run)
    assert stages.verify_data(folders=run) == []
    for path in (run.provenance, run.origin):
        write_text(path, "{}\n")
        assert stages.verify_data(folders=run) == []
        emptied(path)
        (finding,) = stages.verify_data(folders=run)
        assert f"{path}" in finding
        path.unlink()
    emptied(run.path / LEDGER)
    (finding,) = stages.verify_data(folders=run)
    assert f"{run.path / LEDGER}: found an empty file, expected the names of files below " in finding


def test_a_record_of_an_earlier_version_is_one(own_model_run: Any) -> None:
    """It had one key for all inputs."""
    run = own_model_run.run
    run.marker("average").write_text('{"key": "0f3c", "version": "0.1.0"}\n')
    assert stages.verify_data(folders=run) == []
    (run.path / ".done" / ".score.0a1b2c3d-7-01234567.tmp").touch()
    assert stages.verify_data(folders=run) == [], "what a killed program left half written"


def test_scores_are_compared_with_the_trials(own_model_run: Any, tmp_path: Path) -> None:
    data, run = own_model_run
    other = tmp_path / "data"
    shutil.copytree(data.path, other)
    path = DataFolder(other).trials("eval")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    findings = [each for each in stages.verify_data(folders=[other, run]) if "shard.list" not in each]
    assert len(findings) == 3, "cosines, normalised, calibrated"
    assert all("1 trial is not in" in finding for finding in findings)
    assert stages.verify_data(folders=run) == [], "without the corpus nobody can know"


def test_files_that_came_with_their_checksums_from_another_run(own_model_run: Any) -> None:
    """Whole by themselves, and not what the run's stages wrote, or made of."""
    data, run = own_model_run
    for name in ("embeddings/eval/utt2bandwidth", "scores/eval.score", "scores/eval.asnorm.score"):
        path = run.path / name
        before = path.read_bytes()
        write_checked_text(path, "".join(reversed(path.read_text().splitlines(keepends=True))))
        (finding,) = [each for each in stages.verify_data(folders=run) if f"{path}: " in each]
        assert re.search(
            r"CRC-32 \w+ of \d+ bytes, expected CRC-32 .* says: another file in its place; delete", finding
        )
        path.write_bytes(before)
        checksum_path(path).unlink()
    assert stages.verify_data(folders=run) == []
    np.save(run.mean_xvector, load_mean(run.mean_xvector) + 1)
    checksum_path(run.mean_xvector).unlink()
    findings = stages.verify_data(folders=[data, run])
    assert any(
        f"{run.marker('score')}: made from others than there are now (embeddings/mean_vec.npy: changed)" in each
        and "run.sh --stage 5 makes it again" in each
        for each in findings
    ), findings
    stages.score(data=data, run=run)
    assert not any(str(run.marker("score")) in each for each in stages.verify_data(folders=[data, run]))


def test_states_and_logs(tiny_corpus: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "exp")
    stages.train(data=tiny_corpus, run=run, config=tiny_yaml, overrides="valid_epoch_interval=1")
    assert stages.verify_data(folders=run) == []
    lines = run.training_log.read_text().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if '"type": "epoch"' in line][1]
    step = next(number for number, line in enumerate(lines) if '"type": "step"' in line)
    for name, kept in (
        ("missing", [*lines[:second], *lines[second + 1 :]]),
        ("double", [*lines[: step + 1], *lines[step:]]),
        ("out of order", [lines[second], *lines[:second]]),
    ):
        write_checked_text(run.training_log, "".join(kept))
        (finding,) = stages.verify_data(folders=run)
        assert re.search(r"train_log\.jsonl:\d+: a record of type .*, expected the next", finding), name
    write_checked_text(run.training_log, "".join(lines) + '{"type": "ste')
    assert stages.verify_data(folders=run) == [], "half a line is what a killed training leaves"
    write_checked_text(run.training_log, json.dumps({"type": "step"}) + "\n")
    (finding,) = stages.verify_data(folders=run)
    assert "a record without type, epoch or step" in finding
    assert '"type": "valid"' in lines[-1]
    for cut in ("".join(lines)[:-10], "".join(lines[:-1]), "".join(lines[: second + 1]), ""):
        run.training_log.write_text(cut)
        checksum_path(run.training_log).unlink(missing_ok=True)
        (finding,) = stages.verify_data(folders=run)
        assert re.search(
            r"train_log\.jsonl: cut off, .* expected all records up to epoch 3, of which \S+/(step_9|model_3)\.pt is; ",
            finding,
        )
    run.marker("train").rename(tmp_path / "train")
    run.training_log.write_text("".join(lines)[:-10])
    assert stages.verify_data(folders=run) == [], "half a line is what a killed training leaves"
    (tmp_path / "train").rename(run.marker("train"))
    shutil.move(run.states, tmp_path / "states")
    (finding,) = stages.verify_data(folders=run)
    assert f"of which {run.model(3)} is; " in finding
    shutil.move(tmp_path / "states", run.states)
    run.training_log.unlink()
    assert stages.verify_data(folders=run) == [], "who deletes it knows that"
    write_checked_text(run.training_log, "")
    assert stages.verify_data(folders=run) == [], "it begins anew where the training goes on"
    write_checked_text(run.training_log, "".join(lines))
    (state,) = run.states.glob("step_*.pt")
    load_config([tiny_yaml], ["projection_args.alpha=1.6"]).save(run.config)
    (finding,) = stages.verify_data(folders=run)
    assert (
        f"{state}: made with other settings than {run.config} has: projection_args.alpha: was 1.5, now 1.6" in finding
    )
    load_config([tiny_yaml]).save(run.config)
    moved = state.with_name("step_7.pt")
    state.rename(moved)
    checksum_path(state).unlink()
    (finding,) = stages.verify_data(folders=run)
    assert f"{moved}: found the state after 9 updates, expected that of its name" in finding
    moved.rename(state)
    flip(5000)(state)
    (finding,) = stages.verify_data(folders=run)
    assert str(state) in finding


@pytest.mark.parametrize(
    "values",
    [
        *('"step", "epoch": 1e400', '{"a": 1}, "epoch": 1', '"step", "epoch": "1"', '"step", "epoch": true'),
        *('"step", "epoch": 1, "loss": "2"', '"step", "epoch": 1, "speed": {"mfu": []}'),
    ],
)
def test_a_log_of_records_that_nobody_wrote(tmp_path: Path, values: str) -> None:
    """What is found is what a training would not go on with."""
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    run.training_log.write_text(f'{{"type": {values}, "step": 1}}\n')
    (finding,) = stages.verify_data(folders=run)
    assert ":1: found a record without type, epoch or step, or with values that are no figures" in finding
    with pytest.raises(RecipeError, match="a record without type, epoch or step"):
        LogWriter(run, 1)


def test_models_are_those_of_the_configuration(tmp_path: Path, tiny_config: Config) -> None:
    """As extraction, which takes half-precision weights, but none of another network."""
    run = RunFolder(tmp_path / "exp")
    tiny_config.save(run.config)
    weights = build_encoder(tiny_config).state_dict()
    checkpoint.save({name: value.half() for name, value in weights.items()}, run.model(1))
    assert stages.verify_data(folders=run) == []
    name = next(iter(weights))
    for change, found in (
        ({name: weights[name][..., :1]}, f"1 entry does not fit the network: {name} "),
        ({name: weights[name].to(torch.float8_e4m3fn)}, f"{name} is of torch.float8_e4m3fn, expected dense real"),
        ({"more": weights[name]}, "more "),
    ):
        checkpoint.save({**weights, **change}, run.model(1))
        (finding,) = stages.verify_data(folders=run)
        assert found in finding
        checkpoint.save({**weights, **change}, run.average)
        with pytest.raises(RecipeError, match=re.escape(found)):
            checkpoint.load_encoder(build_encoder(tiny_config), checkpoint.load(run.average), run.average)
        run.average.unlink()
        checksum_path(run.average).unlink()


@pytest.mark.parametrize("place", range(len(RunFolder("exp").earlier_states)))
def test_a_state_of_an_earlier_version_is_read_as_one(tmp_path: Path, place: int) -> None:
    path = RunFolder(tmp_path / "exp").earlier_states[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "exp" / "models").mkdir(exist_ok=True)
    checkpoint.save({"epoch": 1}, path)
    (finding,) = stages.verify_data(folders=tmp_path / "exp")
    assert f"{path}: found no elapsed_s, world_size, " in finding


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(2)], "a list"),
        (None, "a NoneType"),
        (torch.zeros(2), "a Tensor"),
        ({}, "an empty dict"),
        ({"a": 1}, "a dict whose entry 'a' is a int"),
    ],
    ids=["list", "none", "tensor", "empty", "number"],
)
def test_a_model_that_is_no_state_dict(tmp_path: Path, content: object, found: str) -> None:
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    torch.save(content, run.model(1))
    (finding,) = stages.verify_data(folders=run)
    assert f"{run.model(1)}: found {found}, expected a state_dict" in finding
