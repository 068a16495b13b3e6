"""Embeddings of whole utterances, from folders that WeSpeaker or this project has trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wespeaker_qm.config import saved_settings
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.stages.averaging import average
from wespeaker_qm.stages.evaluating import evaluate
from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.stages.scoring import score
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.vectors import VectorTable


@pytest.fixture
def wespeakers_run(tmp_path: Path) -> RunFolder:
    """What WeSpeaker leaves of a training with a loss that is not offered here: a configuration and the weights."""
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    config = {
        "data_type": "raw",
        "dataset_args": {"cmvn": True, "fbank_args": {"num_mel_bins": 16}, "frontend": "fbank", "resample_rate": 16000},
        "do_lm": True,
        "gpus": [0, 1],
        "model": "ResNet18",
        "model_args": {"embed_dim": 8, "feat_dim": 16, "pooling_func": "TSTP", "two_emb_layer": False},
        "model_init": None,
        "num_avg": 1,
        "num_epochs": 5,
        "optimizer": "Adam",
        "projection_args": {"embed_dim": 8, "num_class": 3, "project_type": "sphereface2", "scale": 32.0},
        "train_data": "data/train/raw.list",
        "train_label": "data/train/utt2spk",
    }
    run.config.write_text(yaml.dump(config))
    torch.manual_seed(1)
    network = ResNet((2, 2, 2, 2), feat_dim=16, embed_dim=8, m_channels=32)
    head = {"projection.weight": torch.ones(3, 8), "projection.bias": torch.zeros(1, 1)}
    torch.save(network.state_dict() | head, run.average)
    return run


def test_wespeakers_folder_is_a_finished_model(wespeakers_run: RunFolder, tiny_corpus: Path, tmp_path: Path) -> None:
    data, run = DataFolder(tiny_corpus), RunFolder(tmp_path / "elsewhere")
    average(run=wespeakers_run)  # whose checkpoints are gone
    extract(data=data, run=run, model=wespeakers_run)
    extract(data=data, run=run, system="initial")
    extract(data=data, run=wespeakers_run)
    assert run.mean_xvector.read_bytes() == wespeakers_run.mean_xvector.read_bytes()
    settings = saved_settings(run.config)
    assert settings["projection_args"]["project_type"] == "sphereface2"
    assert settings["model_args"]["embed_dim"] == 8


def test_wespeakers_folder_is_extracted_scored_and_evaluated(wespeakers_run: RunFolder, tiny_corpus: Path) -> None:
    data, run = DataFolder(tiny_corpus), wespeakers_run
    extract(data=data, run=run)
    embeddings = VectorTable(run.xvectors("eval"))
    values = embeddings.load(embeddings.names)
    assert values.shape == (18, 8)
    assert np.isfinite(values).all() and np.std(values, axis=0).min() > 0
    score(data=data, run=run)
    evaluate(data=data, run=run, num_resamples=0)
    assert run.report("md").is_file()
