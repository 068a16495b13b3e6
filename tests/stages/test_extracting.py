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
    """What WeSpeaker leaves of a training with a loss that is not offered here: a configuration and the weights.

    The keys are all those that its ``train.py``, called by the ``run.sh`` of its VoxCeleb recipe, writes.
    """
    run = RunFolder(tmp_path / "exp")
    run.models.mkdir(parents=True)
    config = {
        "data_type": "raw",
        "dataloader_args": {"batch_size": 256, "drop_last": True, "num_workers": 16, "pin_memory": False},
        "dataset_args": {
            "aug_prob": 0.6,
            "cmvn": True,
            "fbank_args": {"dither": 1.0, "frame_length": 25, "frame_shift": 10, "num_mel_bins": 16},
            "filter": True,
            "filter_args": {"max_num_frames": 800, "min_num_frames": 100},
            "frontend": "fbank",
            "num_frms": 200,
            "resample_rate": 16000,
            "sample_num_per_epoch": 0,
            "shuffle": True,
            "shuffle_args": {"shuffle_size": 2500},
            "spec_aug": False,
            "spec_aug_args": {"max_f": 8, "max_t": 10, "num_f_mask": 1, "num_t_mask": 1, "prob": 0.6},
            "speed_perturb": True,
        },
        "do_lm": True,
        "enable_amp": False,
        "exp_dir": "exp/ResNet18",
        "gpus": [0, 1],
        "log_batch_interval": 100,
        "loss": "CrossEntropyLoss",
        "loss_args": {},
        "margin_scheduler": "MarginScheduler",
        "margin_update": {
            "epoch_iter": 4265,
            "final_margin": 0.2,
            "fix_start_epoch": 40,
            "increase_start_epoch": 20,
            "increase_type": "exp",
            "initial_margin": 0.0,
            "update_margin": True,
        },
        "model": "ResNet18",
        "model_args": {"embed_dim": 8, "feat_dim": 16, "pooling_func": "TSTP", "two_emb_layer": False},
        "model_init": None,
        "noise_data": "data/musan/lmdb",
        "num_avg": 1,
        "num_epochs": 5,
        "optimizer": "Adam",
        "optimizer_args": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0001},
        "projection_args": {
            "do_lm": False,
            "easy_margin": False,
            "embed_dim": 8,
            "num_class": 3,
            "project_type": "sphereface2",
            "scale": 32.0,
        },
        "reverb_data": "data/rirs/lmdb",
        "save_epoch_interval": 5,
        "scheduler": "ExponentialDecrease",
        "scheduler_args": {
            "epoch_iter": 4265,
            "final_lr": 5.0e-05,
            "initial_lr": 0.1,
            "num_epochs": 5,
            "scale_ratio": 4.0,
            "warm_from_zero": True,
            "warm_up_epoch": 6,
        },
        "seed": 42,
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
