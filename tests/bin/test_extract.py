"""train, average and extract as subcommands, on the tiny corpus."""

import argparse
import itertools
import logging
from pathlib import Path

import kaldiio
import numpy as np
import pytest

from wespeaker_qm.bin import average, extract, train
from wespeaker_qm.config import Config
from wespeaker_qm.utils.errors import RecipeError


def call(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def run_dir(tiny_corpus: Path, tiny_config: Config, tmp_path: Path) -> Path:
    config = tmp_path / "conf.yaml"
    tiny_config.save(config)
    call(train, "--data", tiny_corpus, "--exp_dir", tmp_path / "run", "--config", config, "--set", "num_avg=2")
    call(average, "--exp_dir", tmp_path / "run")
    return tmp_path / "run"


def test_every_system_has_a_folder_of_its_own_and_all_utterances(run_dir: Path, tiny_corpus: Path, caplog) -> None:
    systems = {(): run_dir, ("--epoch", 1): run_dir / "model_1", ("--untrained",): run_dir / "untrained"}
    for options in systems:
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir, *options)
    call(extract, "--data", tiny_corpus, "--exp_dir", run_dir.parent / "ltas", "--ltas")
    systems["--ltas",] = run_dir.parent / "ltas"
    first = []
    for folder in systems.values():
        train_set = kaldiio.load_scp(str(folder / "embeddings" / "train" / "xvector.scp"))
        evaluation = kaldiio.load_scp(str(folder / "embeddings" / "eval" / "xvector.scp"))
        assert (len(train_set), len(evaluation)) == (24, 18)
        mean = np.mean([train_set[key] for key in train_set], axis=0)
        np.testing.assert_allclose(np.load(folder / "embeddings" / "mean_vec.npy"), mean, atol=1e-5)
        first.append(evaluation["e0-0"])
    for one, other in itertools.pairwise(first):
        assert one.shape != other.shape or not np.allclose(one, other)

    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(extract, "--data", tiny_corpus, "--exp_dir", run_dir)
    assert caplog.text.count("nothing changed since the last run, skipped") == 2


def test_training_twice_trains_once(run_dir: Path, tiny_corpus: Path, caplog) -> None:
    models = {path: path.stat().st_mtime_ns for path in (run_dir / "models").iterdir()}
    config = run_dir.parent / "conf.yaml"
    arguments = ["--data", tiny_corpus, "--exp_dir", run_dir, "--config", config, "--set", "num_avg=2"]
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        call(train, *arguments)
    assert "stage train: nothing changed since the last run, skipped" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "models").iterdir()} == models
    with pytest.raises(RecipeError, match="num_epochs: was 3, now 4"):
        call(train, *arguments, "num_epochs=4")
    with pytest.raises(RecipeError, match="--resume is false"):
        call(train, *arguments, "num_epochs=4", "--resume", "false")
