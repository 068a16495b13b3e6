"""Training with the prototypes divided over processes: the same weights, files and continuation as without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.states import newest_state
from wespeaker_qm.utils.layout import RunFolder

THREE_STEPS = ("dataloader_args.batch_size=8", "dataset_args.sample_num_per_epoch=48")
TRAIN = ["-m", "wespeaker_qm.bin.main", "train"]
DYING = """
import sys
from pathlib import Path
from wespeaker_qm.config import load_config
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import joined_processes
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.layout import DataFolder, RunFolder

config, data, exp_dir, *overrides = sys.argv[1:]
config = load_config([Path(config)], overrides)
with joined_processes("cpu") as processes:
    trainer = Trainer(config, build_training(config, DataFolder(data), processes), RunFolder(exp_dir))
    step = trainer._step
    def dying_step(index, batch):
        if index == trainer.steps_per_epoch + 1:
            sys.exit(7)
        return step(index, batch)
    trainer._step = dying_step
    trainer.run()
"""

OVERFLOWING = """
import sys
import torch
from pathlib import Path
from wespeaker_qm.config import load_config
from wespeaker_qm.train import build
from wespeaker_qm.train.distributed import joined_processes
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.utils.layout import DataFolder, RunFolder

config, data, exp_dir, *overrides = sys.argv[1:]
build._FUSED_FROM = {"cpu": 0}
with joined_processes("cpu") as processes:
    parts = build.build_training(load_config([Path(config)], overrides), DataFolder(data), processes)
    trainer = Trainer(parts=parts, config=load_config([Path(config)], overrides), folder=RunFolder(exp_dir))
    weight, step, num_updates = parts.model.projection.weight, trainer._step, []
    def overflow(gradient):
        return gradient * torch.inf if processes.rank == 1 and trainer.step in (0, 3) else gradient
    weight.register_hook(overflow)
    def watched_step(index, batch):
        before, scale = weight.detach().clone(), parts.scaler.get_scale()
        step(index, batch)
        skipped, lowered = bool((weight == before).all()), parts.scaler.get_scale() < scale
        assert skipped == lowered and (lowered or index not in (0, 3)), (index, skipped, lowered)
        assert len(set(processes.gather(skipped))) == 1
        num_updates.append(not skipped)
        assert all(parameter.isfinite().all() for parameter in parts.model.parameters())
    trainer._step = watched_step
    trainer.run()
    assert 0 < sum(num_updates) < 5
    assert all(group["fused"] for group in parts.optimizer.param_groups)
"""


def torchrun(num_processes: int, *arguments: str, code: int = 0) -> None:
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*program, *arguments], capture_output=True, text=True, env=environment, timeout=240)
    assert (result.returncode == 0) == (code == 0), result.stderr[-3000:]


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    tiny_config.save(tmp_path / "conf.yaml")

    def run(name: str, num_processes: int, *overrides: str, epoch: int = 1) -> dict[str, torch.Tensor]:
        options = ["--data", str(tiny_corpus), "--exp_dir", str(tmp_path / name)]
        options += ["--config", str(tmp_path / "conf.yaml"), "--set", *overrides]
        torchrun(num_processes, *TRAIN, *options)
        return checkpoint.load(RunFolder(tmp_path / name).model(epoch))

    return run


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    assert all(one[name].shape == two[name].shape for name in one)
    return max(((one[name].double() - two[name].double()).abs().max()).item() for name in one)


def test_divided_prototypes_train_to_the_same_weights_and_go_on_after_a_death(
    train, tiny_corpus: Path, tmp_path: Path
) -> None:
    # After three steps, and not of four samples: batch norm over few samples makes much of round-off.
    together = train("together", 2, *THREE_STEPS)
    overrides = (*THREE_STEPS, "projection_args.shard_classes=true")
    divided = train("divided", 2, *overrides)
    assert divided["projection.weight"].shape == (12, 8)
    assert distance(together, divided) < 1e-3  # a fault of the gradients would be 1e-2 and more

    script = tmp_path / "dying.py"
    script.write_text(DYING)
    torchrun(
        2, str(script), str(tmp_path / "conf.yaml"), str(tiny_corpus), str(tmp_path / "killed"), *overrides, code=7
    )
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
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    """In fp16, where the gradient of one process's prototypes overflows; also in the first step, before any momenta."""
    tiny_config.save(tmp_path / "conf.yaml")
    script = tmp_path / "overflowing.py"
    script.write_text(OVERFLOWING)
    overrides = (*THREE_STEPS, "enable_amp=true", "projection_args.shard_classes=true", "num_epochs=2")
    torchrun(2, str(script), str(tmp_path / "conf.yaml"), str(tiny_corpus), str(tmp_path / "exp"), *overrides)


def test_fewer_classes_than_processes_are_refused(tiny_config: Config) -> None:
    from dataclasses import replace

    from wespeaker_qm.train import build
    from wespeaker_qm.train.distributed import Processes
    from wespeaker_qm.utils.errors import RecipeError

    config = replace(tiny_config, projection_args=replace(tiny_config.projection_args, shard_classes=True))
    with pytest.raises(RecipeError, match=r"projection_args\.shard_classes: found true with 3 classes and 4 processes"):
        build.build_partition(config, 3, Processes(rank=0, world_size=4, device=torch.device("cpu")))
