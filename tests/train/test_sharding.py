"""Training with the prototypes divided over processes: the same weights, files and continuation as without."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train import build
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import Processes, joined_processes
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.train.states import newest_state
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder

THREE_STEPS = ("dataloader_args.batch_size=8", "dataset_args.sample_num_per_epoch=48")


@pytest.fixture
def configured(tiny_config: Config, tmp_path: Path):
    """Function: the configuration with overrides."""
    tiny_config.save(tmp_path / "conf.yaml")

    def load(*overrides: str) -> Config:
        return load_config([tmp_path / "conf.yaml"], overrides)

    return load


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path, ranks: Any):
    """Function: weights after an epoch of several processes."""
    tiny_config.save(tmp_path / "conf.yaml")

    def run(name: str, num_processes: int, *overrides: str, epoch: int = 1) -> dict[str, torch.Tensor]:
        def work() -> None:
            stages.train(data=tiny_corpus, run=tmp_path / name, config=tmp_path / "conf.yaml", overrides=overrides)

        assert ranks(work, num_processes) == [0] * num_processes
        return checkpoint.load(RunFolder(tmp_path / name).model(epoch))

    return run


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    assert all(one[name].shape == two[name].shape for name in one)
    return max(((one[name].double() - two[name].double()).abs().max()).item() for name in one)


def test_divided_prototypes_train_to_the_same_weights_and_go_on_after_a_death(
    train, configured, tiny_corpus: Path, tmp_path: Path, ranks
) -> None:
    # After three steps, and not of four samples: batch norm over few samples makes much of round-off.
    together = train("together", 2, *THREE_STEPS)
    overrides = (*THREE_STEPS, "projection_args.shard_classes=true")
    divided = train("divided", 2, *overrides)
    assert divided["projection.weight"].shape == (12, 8)
    assert distance(together, divided) < 1e-3  # a fault of the gradients would be 1e-2 and more

    def dying() -> None:
        with joined_processes("cpu") as processes:
            config = configured(*overrides)
            parts = build_training(config, DataFolder(tiny_corpus), processes)
            trainer = Trainer(config, parts, RunFolder(tmp_path / "killed"))
            step = trainer._step

            def dying_step(index: int, batch: Any) -> None:
                if index == trainer.steps_per_epoch + 1:
                    sys.exit(7)
                step(index, batch)

            trainer._step = dying_step
            trainer.run()

    assert ranks(dying) == [7, 7]
    state = checkpoint.load(newest_state(RunFolder(tmp_path / "killed")))
    assert state["epoch"] == 1
    assert state["model"]["projection.weight"].shape == (12, 8)
    momenta = [value["momentum_buffer"] for value in state["optimizer"]["state"].values()]
    assert any(momentum.shape == (12, 8) for momentum in momenta)
    last = checkpoint.load(RunFolder(tmp_path / "divided").model(3))
    assert distance(train("killed", 2, *overrides, epoch=3), last) == 0


def test_uneven_parts_and_reinitialisation(train) -> None:
    """Four classes on three processes; A3M-I."""
    overrides = [*THREE_STEPS, "dataset_args.sample_num_per_epoch=72", "dataset_args.speed_perturb=false"]
    a3m = "{project_type: alpha_arc_margin, scale: 5.0, alpha: 2.0, reinit_epoch: 1, shard_classes: %s}"
    together = train("together", 3, *overrides, "projection_args=" + a3m % "false")
    divided = train("divided", 3, *overrides, "projection_args=" + a3m % "true")
    assert divided["projection.weight"].shape == (4, 8)
    assert distance(together, divided) < 1e-3


def test_a_fused_optimiser_skips_the_same_steps_on_all_processes(
    configured, tiny_corpus: Path, tmp_path: Path, ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp16, where the gradient of one process's prototypes overflows; also in the first step, before any momenta."""
    monkeypatch.setattr(build, "_FUSED_FROM", {"cpu": 0})
    config = configured(*THREE_STEPS, "enable_amp=true", "projection_args.shard_classes=true", "num_epochs=2")

    def work() -> None:
        with joined_processes("cpu") as processes:
            parts = build_training(config, DataFolder(tiny_corpus), processes)
            trainer = Trainer(config, parts, RunFolder(tmp_path / "exp"))
            weight, step, num_updates = parts.model.projection.weight, trainer._step, []

            def overflow(gradient: torch.Tensor) -> torch.Tensor:
                return gradient * torch.inf if processes.rank == 1 and trainer.step in (0, 3) else gradient

            def watched_step(index: int, batch: Any) -> None:
                before, scale = weight.detach().clone(), parts.scaler.get_scale()
                step(index, batch)
                skipped, lowered = bool((weight == before).all()), parts.scaler.get_scale() < scale
                assert skipped == lowered and (lowered or index not in (0, 3)), (index, skipped, lowered)
                assert len(set(processes.gather(skipped))) == 1
                num_updates.append(not skipped)
                assert all(parameter.isfinite().all() for parameter in parts.model.parameters())

            weight.register_hook(overflow)
            trainer._step = watched_step
            trainer.run()
            assert 0 < sum(num_updates) < 5
            assert all(group["fused"] for group in parts.optimizer.param_groups)

    assert ranks(work) == [0, 0]


def test_fewer_classes_than_processes_are_refused(tiny_config: Config) -> None:
    config = replace(tiny_config, projection_args=replace(tiny_config.projection_args, shard_classes=True))
    with pytest.raises(RecipeError, match=r"projection_args\.shard_classes: found true with 3 classes and 4 processes"):
        build.build_partition(config, 3, Processes(rank=0, world_size=4, device=torch.device("cpu")))
