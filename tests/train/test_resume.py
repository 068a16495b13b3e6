"""A run goes on only with what it was made from; every difference is named, and nothing is trained or marked."""

import argparse
import dataclasses
import logging
import re
import shutil
from pathlib import Path

import pytest

from wespeaker_qm.bin import train
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.network import build, checkpoint
from wespeaker_qm.packing.pack import pack_data_dir
from wespeaker_qm.stages.averaging import average
from wespeaker_qm.stages.extracting import extract
from wespeaker_qm.train.states import newest_state
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.lock import LOCK
from wespeaker_qm.utils.stage_versions import STAGE_VERSIONS


@pytest.fixture
def data(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may change."""
    return Path(shutil.copytree(tiny_corpus, tmp_path / "data"))


@pytest.fixture
def run(data: Path, tiny_config: Config, tmp_path: Path):
    """Function: train into ``tmp_path / "exp"``, with overrides."""

    def call(*overrides: str, config: Config = tiny_config) -> Path:
        config.save(tmp_path / "conf.yaml")
        parser = argparse.ArgumentParser()
        train.add_arguments(parser)
        options = ["--data", str(data), "--exp_dir", str(tmp_path / "exp"), "--config", str(tmp_path / "conf.yaml")]
        train.run(parser.parse_args([*options, "--set", "valid_epoch_interval=0", *overrides]))
        return tmp_path / "exp"

    return call


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but the lock, which names this process while it lives."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def without_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_set(folder: Path) -> None:
    """Pack a set without its last recording, whose speaker has others."""
    for name in ("wav.scp", "utt2spk", "utt2dur"):
        without_last_line(folder / name)
    pack_data_dir(folder, utterances_per_shard=10, num_workers=1)


def interrupt(exp: Path) -> None:
    """Make a finished run one that stopped after its first epoch."""
    run = RunFolder(exp)
    (exp / ".done" / "train").unlink()
    state = checkpoint.load(newest_state(run))
    step = state["step"] // 3
    shutil.rmtree(run.states)
    checkpoint.save({**state, "epoch": 1, "step": step, "schedule_step": step}, run.state(step))
    for epoch in (2, 3):
        run.model(epoch).unlink()


CHANGES = [
    ("train", "training audio: changed"),
    ("noise", "noise: changed"),
    ("rirs", "room impulse responses: changed"),
]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize(("name", "message"), CHANGES, ids=[name for name, _ in CHANGES])
def test_other_audio_is_refused_by_name(run, data: Path, name: str, message: str, finished: bool) -> None:
    exp = run()
    if not finished:
        interrupt(exp)
    before = contents(exp)
    change_set(data / name)
    for _ in range(2):
        with pytest.raises(RecipeError, match=message) as error:
            run()
        assert "choose another --exp_dir, or delete" in str(error.value)
    assert contents(exp) == before


def test_a_run_of_another_corpus_is_evaluated_in_a_folder_of_its_own(run, data: Path, tmp_path: Path) -> None:
    """As the messages say: in its folder the results on both corpora would be mixed."""
    exp, other = RunFolder(run()), DataFolder(shutil.copytree(data, tmp_path / "other"))
    average(run=exp)
    extract(data=DataFolder(data), run=exp)
    change_set(other.set("train").path)
    before = contents(exp.embeddings)
    for system in ("average", "untrained", 3):
        with pytest.raises(RecipeError, match=rf"mixed there.*run\.sh --model {exp}, with another --exp_dir"):
            extract(data=other, run=exp, system=system)
    change_set(data / "train")
    with pytest.raises(RecipeError, match=rf"training audio: changed.*run\.sh --model {exp}, with another"):
        run()
    assert contents(exp.embeddings) == before
    extract(data=other, run=RunFolder(tmp_path / "apart"), model=exp)
    assert RunFolder(tmp_path / "apart").xvectors("eval").is_file()


def test_models_hold_nothing_but_weights_of_epochs_and_their_average(run) -> None:
    """WeSpeaker's average_model.py takes every other .pt for an epoch, which its name must have."""
    exp = RunFolder(run())
    average(run=exp)
    names = sorted(path.name for path in exp.models.glob("*.pt"))
    assert names == ["avg_model.pt", "model_1.pt", "model_2.pt", "model_3.pt"]


def test_the_same_audio_packed_again_at_another_time_and_place_is_the_same(run, data: Path, caplog) -> None:
    exp = run()
    shutil.rmtree(data / "train" / "shards")
    (data / "train" / "shard.list").unlink()
    pack_data_dir(data / "train", utterances_per_shard=10, num_workers=1)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        run()
    assert "stage train: nothing changed since the last run, skipped" in caplog.text
    interrupt(exp)
    run()


def test_noise_that_is_not_used_may_change(run, data: Path) -> None:
    run("dataset_args.aug_prob=0")
    change_set(data / "noise")
    run("dataset_args.aug_prob=0")


def test_initial_weights_count_by_content(run, tiny_config: Config, tmp_path: Path) -> None:
    encoder = build.build_encoder(tiny_config)
    checkpoint.save(encoder.state_dict(), tmp_path / "init.pt")
    exp = run(f"model_init={tmp_path / 'init.pt'}")
    shutil.copy(tmp_path / "init.pt", tmp_path / "copy.pt")
    run(f"model_init={tmp_path / 'copy.pt'}")
    state = encoder.state_dict()
    state["conv1.weight"] = state["conv1.weight"] + 1
    checkpoint.save(state, tmp_path / "init.pt")
    before = contents(exp)
    with pytest.raises(RecipeError, match="initial weights: changed"):
        run(f"model_init={tmp_path / 'init.pt'}")
    with pytest.raises(RecipeError, match="initial weights: was there, now random"):
        run()
    assert contents(exp) == before


def test_a_training_may_begin_with_the_state_of_another(run, data: Path, tmp_path: Path) -> None:
    exp = run("num_epochs=1")
    shutil.move(exp, tmp_path / "before")
    run(f"model_init={newest_state(RunFolder(tmp_path / 'before'))}")
    extract(data=DataFolder(data), run=RunFolder(exp), system="initial")
    extract(data=DataFolder(data), run=RunFolder(tmp_path / "before"), system=1)
    one, other = RunFolder(exp).initial, RunFolder(tmp_path / "before").at_epoch(1)
    assert one.mean_xvector.read_bytes() == other.mean_xvector.read_bytes()


def test_another_version_of_the_code_is_named(run, monkeypatch) -> None:
    run()
    before = STAGE_VERSIONS["train"]
    monkeypatch.setitem(STAGE_VERSIONS, "train", before + 1)
    with pytest.raises(RecipeError, match=f"training code: was {before}, now {before + 1}"):
        run()


@pytest.mark.parametrize("has_state", [True, False])
def test_a_finished_run_of_another_version_gets_its_configuration_back(run, monkeypatch, has_state: bool) -> None:
    """Its refusal recommends stage 4, which needs config.yaml, whose absence recommends stage 3."""
    exp = RunFolder(run())
    before, settings = STAGE_VERSIONS["train"], load_config([exp.config])
    exp.config.unlink()
    if not has_state:
        shutil.rmtree(exp.states)
    monkeypatch.setitem(STAGE_VERSIONS, "train", before + 1)
    with pytest.raises(RecipeError, match=r"go on with run\.sh --stage 4") as error:
        run()
    assert str(error.value).count(f"code: was {before}, now {before + 1}") == 1, "told once"
    assert load_config([exp.config]) == settings
    average(run=exp)


def test_a_run_gets_its_configuration_back_and_not_that_of_another_command(run) -> None:
    exp = RunFolder(run())
    settings = load_config([exp.config])
    exp.config.unlink()
    with pytest.raises(RecipeError, match=r"seed: was 42, now 7"):
        run("seed=7")
    assert load_config([exp.config]) == settings


def test_a_run_of_an_earlier_version_is_refused_with_the_reason(run) -> None:
    exp = run()
    path = newest_state(RunFolder(exp))
    state = checkpoint.load(path)
    del state["made_from"], state["validation"]
    checkpoint.save(state, path)
    (exp / ".done" / "train").write_text('{"key": "0123", "outputs": []}')
    with pytest.raises(RecipeError, match="an earlier version wrote it, which did not note what data"):
        run()


def test_a_finished_run_without_its_state_is_not_overwritten_by_another(run, data: Path) -> None:
    exp = run()
    shutil.rmtree(RunFolder(exp).states)
    run()
    change_set(data / "train")
    before = contents(exp)
    with pytest.raises(RecipeError, match=r"holds a finished run, without a state in resume/.*training audio: changed"):
        run()
    assert contents(exp) == before


def test_weights_alone_are_no_state_of_a_training(run) -> None:
    exp = run()
    (exp / ".done" / "train").unlink()
    path = newest_state(RunFolder(exp))
    checkpoint.save(checkpoint.load(RunFolder(exp).model(3)), path)
    before = contents(exp)
    with pytest.raises(RecipeError, match=r"step_9\.pt: found no epoch, .* expected the state of a training"):
        run()
    assert contents(exp) == before
    checkpoint.save([1], path)
    with pytest.raises(RecipeError, match=r"step_9\.pt: found no names in it, expected the state of a training"):
        run()
    shutil.rmtree(RunFolder(exp).states)  # as the message says
    run()


def test_models_that_a_finished_run_has_lost_are_not_marked_as_there(run) -> None:
    exp = run()
    model = RunFolder(exp).model(3)
    content = model.read_bytes()
    model.unlink()
    with pytest.raises(RecipeError, match=r"model_3\.pt: missing"):
        run()
    model.write_bytes(bytes(reversed(content)))
    with pytest.raises(RecipeError, match=r"model_3\.pt: not what the stage wrote"):
        run()
    model.write_bytes(content)
    run()


def test_another_validation_set_is_told_but_changes_no_weight(run, data: Path, caplog) -> None:
    exp = run()
    path = RunFolder(exp).model(3)
    before = checkpoint.load(path)
    interrupt(exp)
    without_last_line(data / "trials" / "eval")
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        run()
    assert "the validation set has changed" in caplog.text
    assert checkpoint.load(path).keys() == before.keys()


def test_settings_without_effect_do_not_train_again(run, tiny_config: Config, caplog) -> None:
    run()
    loading = dataclasses.replace(tiny_config.dataloader_args, prefetch_factor=3)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        run("log_batch_interval=1", config=dataclasses.replace(tiny_config, dataloader_args=loading))
    assert "nothing changed since the last run, skipped" in caplog.text


def test_weights_of_an_interrupted_run_begin_another_one(run, data: Path, tmp_path: Path) -> None:
    """There is no average of its last checkpoints yet, so that stage 4 would not help."""
    interrupt(run())
    change_set(data / "train")
    with pytest.raises(RecipeError, match="to begin another run with its weights") as error:
        run()
    assert "stage 4" not in str(error.value)
    (tmp_path / "exp").rename(tmp_path / "old")
    (advice,) = re.findall(r"--overrides (model_init=\S+)", str(error.value))
    assert RunFolder(run(advice.replace("/exp/", "/old/"))).model(3).is_file()
