"""Stage 8, second part: the ONNX files of a run's model."""

import logging
import shutil

import numpy as np
import onnx
import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder
from wespeaker_qm.packing.reader import ShardReader
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.extras import installation
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.vectors import VectorTable


@pytest.fixture(scope="module")
def exported(tiny_corpus, tiny_yaml, tmp_path_factory):
    """A run with embeddings, scores and model folder."""
    data, run = DataFolder(tiny_corpus), RunFolder(tmp_path_factory.mktemp("exp") / "tiny")
    config = load_config([tiny_yaml])
    config.save(run.config)
    torch.manual_seed(2)
    encoder = build_encoder(config)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    checkpoint.save(encoder.state_dict(), run.average)
    stages.extract(data=data, run=run)
    stages.score(data=data, run=run)
    stages.export(data=data, run=run, num_resamples=0)
    return data, run


@pytest.fixture
def place(exported, tmp_path):
    """Corpus, and a copy of the run."""
    data, run = exported
    shutil.copytree(run.path, tmp_path / "run")
    return data, RunFolder(tmp_path / "run")


def metadata(path):
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_the_file_embeds_as_stage_4_and_the_folder_do(place):
    data, run = place
    stages.export_onnx(data=str(data), run=str(run))
    assert not run.onnx("int8").exists()
    model, reader = Speaker.load(run.onnx()), ShardReader(data.set("eval").shard_list)
    assert model.fingerprint == Speaker.load(run.model_folder).fingerprint
    assert model.info.evidence == Speaker.load(run.model_folder).info.evidence
    embeddings = model.embed([reader.read(row) for row in range(6)], sample_rate=reader.sample_rate)
    expected = VectorTable(run.xvectors("eval")).load(reader.keys[:6])
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)


def test_nothing_is_done_twice_and_another_model_makes_it_anew(place, caplog):
    caplog.set_level(logging.INFO)
    data, run = place
    stages.export_onnx(data=data, run=run)
    before = run.onnx().stat().st_mtime_ns
    stages.export_onnx(data=data, run=run)
    assert run.onnx().stat().st_mtime_ns == before and "stage export onnx: nothing changed" in caplog.text
    stages.export_onnx(data=data, run=run, features="inside")
    assert metadata(run.onnx())["features"] == "inside"
    config = load_config([run.config])
    torch.manual_seed(3)
    checkpoint.save(build_encoder(config).state_dict(), run.average)
    stages.extract(data=data, run=run)
    stages.score(data=data, run=run)
    stages.export(data=data, run=run, num_resamples=0)
    stages.export_onnx(data=data, run=run, features="inside")
    assert Speaker.load(run.onnx()).fingerprint == Speaker.load(run.model_folder).fingerprint


def test_int8_says_what_it_costs(place, caplog):
    caplog.set_level(logging.INFO)
    data, run = place
    stages.export_onnx(data=data, run=run, int8=True)
    found = metadata(run.onnx("int8"))
    assert found["trial_list"] == "all" and found["weights"] == "int8"
    trials = [line.split() for line in data.trials("all").read_text().splitlines()]
    small, reader = Speaker.load(run.onnx("int8")), ShardReader(data.set("eval").shard_list)
    rows = small.embed([reader.read(row) for row in range(len(reader))], sample_rate=reader.sample_rate)
    stored = VectorTable(run.xvectors("eval")).load(reader.keys)
    for embeddings, key in ((rows, "eer_int8"), (stored, "eer_float32")):
        centred = embeddings - small.info.mean
        unit = dict(zip(reader.keys, centred / np.linalg.norm(centred, axis=1, keepdims=True), strict=True))
        scores = np.array([unit[one] @ unit[other] for one, other, _ in trials])
        is_target = np.array([label == "target" for *_, label in trials])
        thresholds = np.unique(scores)
        misses = (scores[is_target] < thresholds[:, None]).mean(axis=1)
        accepts = (scores[~is_target] >= thresholds[:, None]).mean(axis=1)
        nearest = np.abs(misses - accepts).argmin()
        assert float(found[key]) == pytest.approx((misses[nearest] + accepts[nearest]) / 2, abs=0.02)
    eer, of_float32 = (f"{100 * float(found[key]):.2f} %" for key in ("eer_int8", "eer_float32"))
    assert f"{eer}, in float32 {of_float32}" in caplog.text
    card = run.int8_card.read_text()
    loss = 100 * (float(found["eer_int8"]) - float(found["eer_float32"]))
    assert f"of the cosines of all {eer}, in float32 {of_float32} ({loss:+.2f} points)" in card
    assert f"`{small.fingerprint[:16]}`" in card and "## What it must not be used for" in card
    stages.export_onnx(data=data, run=run)
    for file in (run.onnx("int8"), run.int8_card):
        assert not file.exists(), "it would be that of another model one day"


def test_packages_that_are_lacking(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    data, run = place
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else name)
    stages.export_onnx(data=data, run=run, if_possible=True)
    assert (
        f"onnx is not installed, so no {run.onnx()} is written (to have it: {installation('onnx')}, then" in caplog.text
    )
    with pytest.raises(RecipeError) as error:
        stages.export_onnx(data=data, run=run)
    assert f"{run.onnx()}: needs the package onnx: {installation('onnx')}" in str(error.value)
    assert not run.onnx().exists()


def test_refusals(place, tmp_path):
    data, run = place
    with pytest.raises(RecipeError, match="int8: found features inside the graph"):
        stages.export_onnx(data=data, run=run, features="inside", int8=True)
    with pytest.raises(RecipeError, match="no such model folder"):
        stages.export_onnx(data=data, run=RunFolder(tmp_path / "none"))
    run.onnx().write_bytes(b"mine")
    with pytest.raises(RecipeError, match=r"model\.onnx"):
        stages.export_onnx(data=data, run=run)
    assert run.onnx().read_bytes() == b"mine"


def test_options(place, monkeypatch, tmp_path, capsys):
    data, run = place
    monkeypatch.chdir(tmp_path)
    command = ["export", "--data", str(data), "--exp_dir", str(run), "--num_resamples", "0"]
    assert main([*command, "--onnx", "false"]) == 0
    assert not run.onnx().exists()
    assert main([*command, "--onnx", "false", "--int8"]) == 1
    assert "--int8 beside --onnx false" in capsys.readouterr().err
    assert main([*command, "--features", "inside"]) == 0
    assert metadata(run.onnx())["features"] == "inside"
    assert main(command) == 0
    assert metadata(run.onnx())["features"] == "outside"
