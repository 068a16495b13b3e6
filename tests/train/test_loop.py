"""Training runs on the tiny corpus: resuming, refusing, logging, re-initialising, several processes."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wespeaker_qm.config import AlphaArcMarginArgs, Config, load_config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.losses import PrototypeSGD, dispatch, fused_filter
from wespeaker_qm.losses.dispatch import Way
from wespeaker_qm.losses.heads import CosineHead
from wespeaker_qm.losses.linear import LinearLoss
from wespeaker_qm.losses.partition import ClassPartition
from wespeaker_qm.network import checkpoint
from wespeaker_qm.network.build import build_encoder, build_fbank
from wespeaker_qm.score.validation import validation_check
from wespeaker_qm.train import build
from wespeaker_qm.train.build import build_head, build_training
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.loop import NonFiniteLossError, Trainer
from wespeaker_qm.train.model import EncoderWithHead
from wespeaker_qm.train.states import newest_state, state_paths
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder
from wespeaker_qm.utils.ownership import take_folder

LOSSES = Path(__file__).parents[2] / "conf" / "loss"


def trainer(config: Config, corpus: Path, exp_dir: Path) -> Trainer:
    return Trainer(config, build_training(config, DataFolder(corpus), ALONE), RunFolder(exp_dir))


def weights(exp_dir: Path, epoch: int) -> checkpoint.State:
    state: checkpoint.State = checkpoint.load(RunFolder(exp_dir).model(epoch))
    return state


def assert_equal_states(left: checkpoint.State, right: checkpoint.State) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def stop_in_epoch(epoch: int) -> Callable[[Trainer], None]:
    """Make a trainer die in the middle of an epoch."""

    def apply(run: Trainer) -> None:
        step = run._step

        def dying_step(index: int, batch: TrainingBatch) -> None:
            if index == (epoch - 1) * run.steps_per_epoch + 1:
                raise Killed
            step(index, batch)

        run._step = dying_step  # type: ignore[method-assign]

    return apply


def test_interrupted_run_ends_with_the_weights_of_a_straight_one(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    trainer(tiny_config, tiny_corpus, tmp_path / "straight").run()
    for epoch in (1, 2, 3):
        run = trainer(tiny_config, tiny_corpus, tmp_path / "killed")
        if state_paths(RunFolder(tmp_path / "killed")):
            run.resume()
        stop_in_epoch(epoch)(run)
        with pytest.raises(Killed):
            run.run()
    last = trainer(tiny_config, tiny_corpus, tmp_path / "killed")
    last.resume()
    assert last.last_epoch == 2
    last.run()
    assert_equal_states(weights(tmp_path / "straight", 3), weights(tmp_path / "killed", 3))
    straight, killed = (
        [
            {key: record[key] for key in ("type", "epoch", "step", "loss", "accuracy", "margin", "learning_rate")}
            for record in map(json.loads, RunFolder(tmp_path / name).training_log.read_text().splitlines())
        ]
        for name in ("straight", "killed")
    )
    assert straight == killed


@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|underflow):RuntimeWarning")
def test_prototypes_that_a_gpu_keeps_train_to_the_same_weights_and_go_on_after_a_death(
    tiny_yaml: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_steps = ("dataset_args.sample_num_per_epoch=8", "dataloader_args.batch_size=4")
    config = load_config([tiny_yaml], ["num_epochs=2", "valid_epoch_interval=0", *two_steps])
    monkeypatch.setattr(build, "_FUSED_FROM", {"cpu": 0})
    for name, size in {"_GROUP": 8, "PLACES": 16, "_PAIRS": 8, "_PROGRAMS": 1, "_WIDE_PROGRAMS": 1}.items():
        monkeypatch.setattr(fused_filter, name, size)  # or a small kernel takes long in the interpreter
    trainer(config, tiny_corpus, tmp_path / "plain").run()
    monkeypatch.setattr(dispatch, "WAYS", dict.fromkeys(("cpu", "cuda"), ((float("inf"), Way.FUSED_FILTER),)))
    straight = trainer(config, tiny_corpus, tmp_path / "straight")
    assert isinstance(straight.parts.optimizer, PrototypeSGD)
    straight.run()
    for name, value in weights(tmp_path / "plain", 1).items():
        torch.testing.assert_close(weights(tmp_path / "straight", 1)[name], value, rtol=1e-3, atol=1e-3)
    run = trainer(config, tiny_corpus, tmp_path / "killed")
    stop_in_epoch(2)(run)
    with pytest.raises(Killed):
        run.run()
    run = trainer(config, tiny_corpus, tmp_path / "killed")
    run.resume()
    run.run()
    assert_equal_states(weights(tmp_path / "straight", 2), weights(tmp_path / "killed", 2))
    plain, straight = (
        [json.loads(line) for line in RunFolder(tmp_path / name).training_log.read_text().splitlines()]
        for name in ("plain", "straight")
    )
    assert plain[0]["grad_norm"] == pytest.approx(straight[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("loss", sorted(LOSSES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_loss_of_the_recipe_trains(tiny_yaml: Path, tiny_corpus: Path, tmp_path: Path, loss: Path) -> None:
    config = load_config([tiny_yaml, loss], ["num_epochs=1", "valid_epoch_interval=0"])
    run = trainer(config, tiny_corpus, tmp_path)
    run.run()
    assert weights(tmp_path, 1)["projection.weight"].isfinite().all()


def test_training_learns_and_logs(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        tiny_config,
        num_epochs=25,
        margin_update=dataclasses.replace(tiny_config.margin_update, increase_start_epoch=15, fix_start_epoch=20),
        dataset_args=dataclasses.replace(
            tiny_config.dataset_args, speed_perturb=False, aug_prob=0.0, channel_prob=0.0, spec_aug=False
        ),
        scheduler_args=dataclasses.replace(tiny_config.scheduler_args, initial_lr=0.8, final_lr=0.05),
    )
    check = validation_check(DataFolder(tiny_corpus), build_fbank(config, dither=0.0), torch.device("cpu"))
    Trainer(config, build_training(config, DataFolder(tiny_corpus), ALONE), RunFolder(tmp_path), check).run()
    records = [json.loads(line) for line in RunFolder(tmp_path).training_log.read_text().splitlines()]
    epochs = [record for record in records if record["type"] == "epoch"]
    assert [record["epoch"] for record in epochs] == list(range(1, 26))
    assert epochs[-1]["accuracy"] >= 0.7  # chance is 0.25
    assert epochs[0]["margin"] == 0.0
    assert all(1 <= record["support"] <= 4 for record in epochs)
    assert all(record["candidate_density"] == 1 for record in epochs)  # few classes are computed densely
    assert all(0 <= record["solved"] + record["dropped"] <= 1 for record in epochs)
    assert epochs[-1]["margin"] == 0.1
    checks = [record for record in records if record["type"] == "valid"]
    assert [record["epoch"] for record in checks] == [*range(3, 25, 3), 25]
    assert all(0 <= record["eer"] <= 1 for record in checks)
    assert list((tmp_path / "tensorboard").iterdir())


class NearestMean(CosineHead):
    """A head that pulls embeddings towards the one-hot vector of their class."""

    def __init__(self) -> None:
        super().__init__(8, 5, scale=1.0)
        self.weight = torch.nn.Parameter(torch.eye(8)[:5])

    def forward(self, embedding: torch.Tensor, target: torch.Tensor, margin: float) -> LinearLoss:
        distance = torch.cdist(embedding, self.weight)
        loss = (embedding - self.weight[target]).square().sum(dim=1)
        return LinearLoss(loss, distance.argmin(dim=1) == target, None)


def test_data_and_head_may_be_others_than_those_of_the_configuration(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Features instead of audio, and a head that no configuration names: class c has its energy in band c."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(3):
        label = torch.randint(5, (8,), generator=generator)
        features = 0.1 * torch.randn(8, 12, 16, generator=generator)
        features[torch.arange(8), :, label] += 3 * torch.randn(8, 12, generator=generator)
        batches.append(TrainingBatch(utterance=label, label=label, features=features, wait_s=0.0))
    config = dataclasses.replace(tiny_config, num_epochs=6)
    parts = build_training(config, DataFolder(tiny_corpus), ALONE)
    model = EncoderWithHead(parts.model.encoder, NearestMean(), None)
    parts = dataclasses.replace(
        parts,
        data=dataclasses.replace(parts.data, num_classes=5),
        loader=batches,
        model=model,
        optimizer=torch.optim.Adam(model.parameters()),
        learning_rate=lambda step: 0.01,
    )
    run = RunFolder(tmp_path)
    Trainer(config, parts, run).run()
    records = [json.loads(line) for line in run.training_log.read_text().splitlines()]
    losses = [record["loss"] for record in records if record["type"] == "epoch"]
    assert losses[-1] < 0.5 * losses[0]
    assert weights(tmp_path, 6)["projection.weight"].shape == (5, 8)


def test_checkpoint_is_a_plain_state_dict_with_wespeakers_names(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    trainer(dataclasses.replace(tiny_config, num_epochs=1), tiny_corpus, tmp_path).run()
    state = weights(tmp_path, 1)
    assert len(state) == 219
    assert state["projection.weight"].shape == (12, 8)
    assert {"conv1.weight", "layer1.0.bn1.running_mean", "seg_1.weight"} <= state.keys()
    encoder = build_encoder(tiny_config)
    checkpoint.load_encoder(encoder, state, tmp_path)
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"])


def test_non_finite_loss_stops_before_the_update_and_names_the_utterances(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    run = trainer(tiny_config, tiny_corpus, tmp_path)
    frontend = run.parts.loader.frontend.forward
    named = []

    def poisoned(batch: object) -> torch.Tensor:
        features = frontend(batch)  # type: ignore[arg-type]
        features[3] = float("nan")
        named.append(run.parts.data.chunks.key(int(batch.utterance[3])))  # type: ignore[attr-defined]
        return features

    run.parts.loader.frontend.forward = poisoned  # type: ignore[method-assign]
    # In evaluation mode batch norm keeps the rows apart, so that one bad row stays one.
    run.parts.model.train = lambda mode=True: run.parts.model.eval() if mode else run.parts.model  # type: ignore[method-assign, assignment]
    run.parts.model.eval = lambda: torch.nn.Module.train(run.parts.model, False)  # type: ignore[method-assign, assignment]
    before = {name: value.clone() for name, value in run.parts.model.named_parameters()}
    with pytest.raises(NonFiniteLossError, match="the loss of 1 of 8 utterances is not finite") as error:
        run.run()
    assert named[0] in str(error.value)
    assert "nothing has been saved yet" in str(error.value)
    assert "into another --exp_dir" in str(error.value)  # this one refuses other settings
    run.step, run.saved = run.steps_per_epoch, run.folder.state(run.steps_per_epoch)
    with pytest.raises(NonFiniteLossError, match=r"the last state is in .*resume/step_3\.pt"):
        run.run()
    for name, value in run.parts.model.named_parameters():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("entry", ["weight", "statistics", "momentum"])
def test_weights_that_are_not_finite_are_never_saved(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, entry: str
) -> None:
    """The loss of an epoch's last batch is finite though the update after it is not."""
    run = trainer(dataclasses.replace(tiny_config, num_epochs=2, num_avg=2), tiny_corpus, tmp_path)
    step = run._step

    def poisoning_step(index: int, batch: TrainingBatch) -> None:
        step(index, batch)
        if index == 2 * run.steps_per_epoch - 1:
            weight = run.parts.model.encoder.seg_1.weight
            poisoned = {
                "weight": weight,
                "statistics": run.parts.model.encoder.bn1.running_var,
                "momentum": run.parts.optimizer.state[weight]["momentum_buffer"],
            }
            poisoned[entry].data.view(-1)[0] = float("nan")

    run._step = poisoning_step  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match=r"epoch 2: 1 of .* are NaN or infinite.*nothing of this epoch was saved"):
        run.run()
    assert checkpoint.load(newest_state(RunFolder(tmp_path)))["epoch"] == 1
    assert not RunFolder(tmp_path).model(2).exists()


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_state_that_is_not_finite_is_not_resumed(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, name: str
) -> None:
    take_folder(tmp_path)  # as the stage does: what to do with a file depends on whose it is
    trainer(dataclasses.replace(tiny_config, num_epochs=1), tiny_corpus, tmp_path).run()
    (path,) = state_paths(RunFolder(tmp_path))
    state = checkpoint.load(path)
    tensor = state["model"]["seg_1.weight"] if name == "model" else state["optimizer"]["state"][0]["momentum_buffer"]
    tensor.view(-1)[0] = float("inf")
    checkpoint.save(state, path)
    message = rf"resume/step_3\.pt: 1 of the .* values of {name}\..* are NaN or .*delete resume/ and \.done/train"
    with pytest.raises(RecipeError, match=message):
        trainer(dataclasses.replace(tiny_config, num_epochs=1), tiny_corpus, tmp_path).resume()


def test_resuming_with_another_setting_is_refused(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    trainer(dataclasses.replace(tiny_config, num_epochs=1), tiny_corpus, tmp_path).run()
    more_workers = dataclasses.replace(tiny_config.dataloader_args, num_workers=1)
    same = dataclasses.replace(tiny_config, num_epochs=1, dataloader_args=more_workers)
    trainer(same, tiny_corpus, tmp_path).resume()
    other = dataclasses.replace(tiny_config, num_epochs=1, seed=43)
    with pytest.raises(RecipeError, match="seed: was 42, now 43"):
        trainer(other, tiny_corpus, tmp_path).resume()


def test_a_margin_that_no_loss_can_bear_is_refused_before_training(tiny_config: Config) -> None:
    margin = dataclasses.replace(tiny_config.margin_update, final_margin=1.0)
    projection = dataclasses.replace(tiny_config.projection_args, alpha=2.0, scale=65.0)
    config = dataclasses.replace(tiny_config, margin_update=margin, projection_args=projection)
    with pytest.raises(RecipeError, match="scale margin is 65, expected at most 64"):
        build_head(config, ClassPartition(5))
    start = dataclasses.replace(margin, update_margin=False)
    build_head(dataclasses.replace(config, margin_update=start), ClassPartition(5))


def test_prototypes_are_reinitialised_at_the_chosen_epoch(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, products: Any
) -> None:
    args = AlphaArcMarginArgs(project_type="alpha_arc_margin", scale=5.0, alpha=2.0, reinit_epoch=2)
    config = dataclasses.replace(tiny_config, projection_args=args)
    run = trainer(config, tiny_corpus, tmp_path)
    with caplog.at_level("INFO", "wespeaker_qm"):
        run.run()
    assert caplog.text.count("prototypes re-initialised (A3M-I)") == 1
    # Once more, by hand: momentum is cleared, and a second time with the same network changes nothing.
    run.parts.plan.set_epoch(2)
    run._reinitialise_head()
    weight = run.parts.model.projection.weight
    assert not run.parts.optimizer.state[weight]["momentum_buffer"].any()
    before = weight.detach().clone()
    with products:
        run._reinitialise_head()
    torch.testing.assert_close(weight.detach(), before)
    assert products.are_exact


@pytest.mark.parametrize("amp_dtype", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny_config: Config, tiny_corpus: Path, tmp_path: Path, amp_dtype: str) -> None:
    config = dataclasses.replace(tiny_config, num_epochs=1, enable_amp=True, amp_dtype=amp_dtype)
    run = trainer(config, tiny_corpus, tmp_path)
    if amp_dtype == "fp16":  # with the scale that it begins with, no update would be made so soon
        run.parts.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    run.run()
    assert all(value.isfinite().all() for value in weights(tmp_path, 1).values())


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_trains_to_nearly_the_same_weights(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    model_args = dataclasses.replace(tiny_config.model_args, m_channels=16)
    config = dataclasses.replace(tiny_config, num_epochs=1, model_args=model_args)
    trainer(config, tiny_corpus, tmp_path / "plain").run()
    trainer(dataclasses.replace(config, compile=True), tiny_corpus, tmp_path / "compiled").run()
    plain, compiled = weights(tmp_path / "plain", 1), weights(tmp_path / "compiled", 1)
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-2, rtol=1e-2)


def test_training_within_a_window_of_shards(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    shuffle_args = dataclasses.replace(tiny_config.dataset_args.shuffle_args, shard_window=1)
    dataset_args = dataclasses.replace(tiny_config.dataset_args, shuffle_args=shuffle_args)
    run = trainer(dataclasses.replace(tiny_config, num_epochs=1, dataset_args=dataset_args), tiny_corpus, tmp_path)
    visited = np.concatenate([batch_id.utterances for batch_id in run.parts.plan])
    assert sorted(visited) == list(range(24))
    shards = run.parts.data.shards[visited]
    assert len(set(shards.tolist())) > 1
    assert np.count_nonzero(np.diff(shards)) == len(set(shards.tolist())) - 1  # one shard after another
    run.run()
    assert RunFolder(tmp_path).model(1).is_file()


def test_two_processes_train_together(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> None:
    """The gradient of two halves is that of the whole; only batch-norm statistics differ, so the runs stay near."""
    tiny_config.save(tmp_path / "conf.yaml")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program += ["-m", "wespeaker_qm.bin.main", "train", "--data", str(tiny_corpus)]
    program += ["--exp_dir", str(tmp_path / "two"), "--config", str(tmp_path / "conf.yaml"), "--set"]
    subprocess.run([*program, "dataloader_args.batch_size=4"], check=True, capture_output=True, text=True)
    trainer(tiny_config, tiny_corpus, tmp_path / "one").run()
    one, two = weights(tmp_path / "one", 3), weights(tmp_path / "two", 3)
    start = trainer(tiny_config, tiny_corpus, tmp_path / "start").parts.model.checkpoint_state()
    name = "seg_1.weight"
    moved, apart = ((other[name] - one[name]).norm().item() for other in (start, two))
    assert apart < 0.5 * moved
    records = [json.loads(line) for line in RunFolder(tmp_path / "two").training_log.read_text().splitlines()]
    assert [record["samples"] for record in records if record["type"] == "epoch"] == [24, 48, 72]
