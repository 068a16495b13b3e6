"""Average and whitening of a small training, beside numpy."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from wespeaker_qm.bin.main import main
from wespeaker_qm.config import load_config
from wespeaker_qm.dataset.plan import BatchId, epoch_order
from wespeaker_qm.dataset.training_set import open_training_set
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.stages import average, train
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder

SETTINGS = ["num_epochs=2", "num_avg=2", "valid_epoch_interval=0", "margin_update.fix_start_epoch=2"]


@pytest.fixture
def data(tiny_corpus: Path, tmp_path: Path) -> DataFolder:
    """A copy of the corpus that a test may change."""
    return DataFolder(shutil.copytree(tiny_corpus, tmp_path / "data"))


@pytest.fixture
def trained(data: DataFolder, tiny_yaml: Path, tmp_path: Path):
    """Function: a run that was trained with overrides."""

    def call(*overrides: str) -> RunFolder:
        run = RunFolder(tmp_path / "exp")
        train(data=data, run=run, config=tiny_yaml, overrides=[*SETTINGS, *overrides])
        return run

    return call


def embeddings_of(encoder, config, data):
    """Embeddings and classes of the epoch behind the last one, sample by sample; features are made as in training."""
    training = open_training_set(config, data, build_fbank(config, dither=1.0))
    size = config.dataloader_args.batch_size
    num_samples = len(training.labels) // size * size
    order = epoch_order(training.labels, sampler="utterance", num_samples=num_samples, seed=config.seed, epoch=3)
    rows, classes = [], []
    for first in range(0, num_samples, size):
        batch = training.chunks[BatchId(3, first, order[first : first + size])]
        with torch.no_grad():
            rows.append(encoder(training.frontend(batch)))
        classes.append(batch.label)
    return torch.cat(rows).double().numpy(), torch.cat(classes).numpy()


def map_by_hand(embeddings, classes):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    off = np.concatenate([unit[classes == each] - unit[classes == each].mean(axis=0) for each in set(classes)])
    covariance = off.T @ off / len(off)
    values, vectors = np.linalg.eigh(covariance / np.mean(np.diag(covariance)) + 0.1 * np.eye(len(covariance)))
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("window", ["null", "20"])
def test_the_last_layer_and_the_prototypes_are_whitened_and_nothing_else(trained, data, window, caplog):
    run = trained("whiten=true", f"model_args.window={window}")
    plain = checkpoint.mean_weights([run.model(1), run.model(2)])
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        average(run=run, data=data)
        assert "averaged and whitened epochs 1 to 2" in caplog.text
        average(run=run, data=data)
    assert "stage average: nothing changed since the last run, skipped" in caplog.text
    found = checkpoint.load(run.average)
    config = load_config([run.config])
    assert config.whiten
    encoder = build_encoder(config)
    checkpoint.load_encoder(encoder, plain, run.average)
    embeddings, classes = embeddings_of(encoder.eval(), config, data)
    assert len(set(classes)) > 8, "speeds are classes"
    matrix = torch.from_numpy(map_by_hand(embeddings, classes))
    expected = {
        **plain,
        "seg_1.weight": (matrix @ plain["seg_1.weight"].double()).float(),
        "seg_1.bias": (matrix @ plain["seg_1.bias"].double()).float(),
        "projection.weight": (plain["projection.weight"].double() @ matrix).float(),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.allclose(found["seg_1.weight"], plain["seg_1.weight"], rtol=0.05)


def test_without_whitening_it_is_the_mean(trained):
    run = trained()
    average(run=run)
    expected = checkpoint.mean_weights([run.model(1), run.model(2)])
    torch.testing.assert_close(checkpoint.load(run.average), expected, rtol=0, atol=0)


def test_the_corpus_is_asked_for(trained, data):
    run = trained("whiten=true")
    with pytest.raises(RecipeError, match=r"config\.yaml: whiten is true.*found no --data"):
        average(run=run)
    assert not run.average.exists()
    assert main(["average", "--data", str(data), "--exp_dir", str(run)]) == 0
    assert run.average.is_file()


def without_last_recording(folder: Path) -> None:
    for table in ("wav.scp", "utt2spk", "utt2dur"):
        lines = (folder / table).read_text().splitlines(keepends=True)
        (folder / table).write_text("".join(lines[:-1]))
    shutil.rmtree(folder / "shards")
    pack_data_dir(folder, sample_rate=16000, utterances_per_shard=10, num_workers=1)


@pytest.mark.parametrize("name", ["noise", "rirs"])
def test_other_augmentation_whitens_again(trained, data, name, caplog):
    run = trained("whiten=true")
    average(run=run, data=data)
    before = run.average.read_bytes()
    without_last_recording(data.set(name).path)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        average(run=run, data=data)
    assert f"stage average: done again, because audio/{name}: changed" in caplog.text
    assert run.average.read_bytes() != before


def test_speakers_of_another_corpus_do_not_whiten(trained, data):
    """Stage 4 with another --data replaced the average before extraction refused that corpus."""
    run = trained("whiten=true")
    average(run=run, data=data)
    before = run.average.read_bytes()
    without_last_recording(data.set("train").path)
    with pytest.raises(RecipeError, match=rf"was trained on other audio than that of {data}.*run\.sh --model {run}"):
        average(run=run, data=data)
    assert run.average.read_bytes() == before


def test_a_sample_a_class_tells_nothing(trained, data):
    run = trained("whiten=true", "dataloader_args.batch_size=2", "dataset_args.sample_num_per_epoch=2")
    with pytest.raises(RecipeError, match=r"no class has two samples.*raise dataset_args\.sample_num_per_epoch"):
        average(run=run, data=data)
    assert not run.average.exists()


def test_sets_that_augmentation_does_not_use_are_not_needed(trained, data):
    run = trained("whiten=true", "dataset_args.aug_prob=0")
    shutil.rmtree(data.set("noise").path)
    average(run=run, data=data)
    assert run.average.is_file()


def test_a_copy_without_checkpoints_needs_no_corpus(trained, data):
    run = trained("whiten=true")
    average(run=run, data=data)
    before = run.average.read_bytes()
    for epoch in (1, 2):
        run.model(epoch).unlink()
    average(run=run)
    assert run.average.read_bytes() == before
