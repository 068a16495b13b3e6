"""Embeddings of whole utterances, from folders that WeSpeaker or this project has trained."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from wespeaker_qm.config import Config, saved_settings
from wespeaker_qm.models.resnet import ResNet
from wespeaker_qm.stages import extracting
from wespeaker_qm.stages.averaging import average
from wespeaker_qm.stages.evaluating import evaluate
from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.stages.scoring import score
from wespeaker_qm.stages.verifying import verify_data
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, ExpRoot, RunFolder
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


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sets that a system has embedded, in their order."""
    seen = []
    whole = extracting.embed_all

    def counted(*args: Any, description: str, **options: Any) -> Any:
        seen.append(description)
        return whole(*args, description=description, **options)

    monkeypatch.setattr(extracting, "embed_all", counted)
    return seen


@pytest.fixture
def make_run(tiny_config: Config, tmp_path: Path) -> Callable[..., RunFolder]:
    """Function: a run of which there is the configuration alone, all that an untrained network needs."""

    def make(name: str, **settings: Any) -> RunFolder:
        run = RunFolder(tmp_path / "exp" / name)
        run.path.mkdir(parents=True)
        dataclasses.replace(tiny_config, **settings).save(run.config)
        return run

    return make


def files(run: RunFolder) -> dict[str, bytes]:
    """Name -> content of what embedding has left, paths of the run aside."""
    found = (path for path in run.embeddings.rglob("*") if path.is_file() and path.suffix != ".crc32")
    return {str(path.relative_to(run.path)): path.read_bytes().replace(bytes(run.path), b"RUN") for path in found}


def test_a_baseline_is_embedded_once_for_several_runs(
    make_run: Callable[..., RunFolder], embedded: list[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "baselines"
    alone, first, second = (make_run(name) for name in ("alone", "first", "second"))
    extract(data=tiny_corpus, run=alone, system="untrained")
    assert embedded == ["extract train", "extract eval"]
    for run in (first, second):
        extract(data=tiny_corpus, run=run, system="untrained", shared=shared)
    assert embedded == 2 * ["extract train", "extract eval"]
    assert len(files(alone.untrained)) == 5  # scp and ark of two sets, and the mean
    assert files(first.untrained) == files(second.untrained) == files(alone.untrained)
    assert verify_data(folders=[tmp_path / "exp", shared]) == []

    shutil.rmtree(shared)  # each run is whole without it
    extract(data=tiny_corpus, run=second, system="untrained", shared=shared)
    score(data=tiny_corpus, run=second.untrained)
    assert verify_data(folders=[second]) == []
    assert len(embedded) == 4


def test_of_two_at_a_time_one_embeds_and_the_other_waits(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch, tiny_corpus: Path, tmp_path: Path
) -> None:
    whole, seen = extracting.embed_all, tmp_path / "seen"

    def counted(*args: Any, description: str, **options: Any) -> Any:
        with seen.open("a") as file:
            file.write(f"{description}\n")
        time.sleep(0.2)  # for the other to come meanwhile
        return whole(*args, description=description, **options)

    monkeypatch.setattr(extracting, "embed_all", counted)
    one, other = make_run("one"), make_run("other")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            extract(data=tiny_corpus, run=one, system="untrained", shared=tmp_path / "baselines")
            status = 0
        finally:
            os._exit(status)
    extract(data=tiny_corpus, run=other, system="untrained", shared=tmp_path / "baselines")
    assert os.waitpid(child, 0)[1] == 0
    assert seen.read_text().splitlines() == ["extract train", "extract eval"]
    assert files(one.untrained) == files(other.untrained)


def test_what_depends_on_something_else_is_made_for_itself(
    make_run: Callable[..., RunFolder], embedded: list[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "baselines"
    one, other = make_run("one"), make_run("other", seed=7)
    extract(data=tiny_corpus, run=one, system="untrained", shared=shared)
    made = {path: path.stat().st_mtime_ns for path in shared.rglob("*.ark")}
    extract(data=tiny_corpus, run=other, system="untrained", shared=shared)
    extract(data=tiny_corpus, run=one, system="untrained", shared=shared, trim_silence=False)
    extract(data=tiny_corpus, run=tmp_path / "ltas", system="ltas", shared=shared)
    assert len(embedded) == 8
    assert files(one.untrained) != files(other.untrained)
    assert len([*shared.rglob("*.ark")]) == 8
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_damaged_shared_embeddings_are_made_again(
    make_run: Callable[..., RunFolder], embedded: list[str], tiny_corpus: Path, tmp_path: Path
) -> None:
    shared = ExpRoot(tmp_path / "exp").baselines
    one, other = make_run("one"), make_run("other")
    extract(data=tiny_corpus, run=one, system="untrained", shared=shared)
    (ark,) = shared.rglob("eval/xvector.ark")
    content = ark.read_bytes()
    ark.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (finding,) = verify_data(folders=[tmp_path / "exp"])
    assert str(ark) in finding
    extract(data=tiny_corpus, run=other, system="untrained", shared=shared)
    assert embedded == ["extract train", "extract eval", "extract eval"]
    assert files(other.untrained) == files(one.untrained)
    assert ark.read_bytes() == content


def test_files_of_others_are_not_replaced_in_the_shared_folder(
    make_run: Callable[..., RunFolder], tiny_corpus: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "baselines"
    extract(data=tiny_corpus, run=make_run("one"), system="untrained", shared=shared)
    (ark,) = shared.rglob("eval/xvector.ark")
    shutil.rmtree(ark.parents[2])
    ark.parent.mkdir(parents=True)
    ark.write_bytes(b"mine")
    other = make_run("other")
    with pytest.raises(RecipeError, match=r"holds 1 file.* that wespeaker-qm has not made"):
        extract(data=tiny_corpus, run=other, system="untrained", shared=shared)
    assert ark.read_bytes() == b"mine"


def test_only_baselines_are_shared(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"shared: found .*baselines for the system 'average', expected one of"):
        extract(data=tiny_corpus, run=tmp_path, shared=tmp_path / "baselines")
