"""A state of what no training wrote: verify-data finds it, and a training takes the one before it, or refuses it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.config import Config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.stages.verifying_run import RunFile, file_findings
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import ALONE
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.train.states import State, newest_state
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder

Changes = Mapping[str, Callable[[Any], Any]]
"""Dotted name of an entry -> what it is changed to."""


@pytest.fixture
def trainer(tiny_config: Config, tiny_corpus: Path, tmp_path: Path) -> Trainer:
    """One that has made no step."""
    run = RunFolder(tmp_path / "exp")
    return Trainer(tiny_config, build_training(tiny_config, DataFolder(tiny_corpus), ALONE), run)


@pytest.fixture
def state(trainer: Trainer) -> State:
    """Of a training that has made a step, with a momentum for each parameter."""
    parameters = list(trainer.parts.model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    trainer.parts.optimizer.step()
    trainer.step = 1
    means = {"sums": {"loss": 1.0}, "counts": {"loss": 8}, "samples": 8, "wait_s": 0.0, "elapsed_s": 1.0}
    trainer._journal = type("Journal", (), {"state": lambda self: {"epoch": means, "interval": means}})()  # type: ignore[assignment]
    return trainer.state()


def changed(state: State, key: str, change: Callable[[Any], Any]) -> State:
    """A copy of the state with another value of an entry."""
    name, _, rest = key.partition("/")
    index = name if isinstance(state, dict) and name in state else int(name)
    copy = dict(state) if isinstance(state, dict) else list(state)
    copy[index] = changed(state[index], rest, change) if rest else change(state[index])
    return copy  # type: ignore[return-value]


OTHER_TYPES: dict[str, list[object]] = {
    "epoch": [torch.tensor(1), "1", True, -1, 10**30],
    "step": [torch.tensor(1), "1", -1],
    "schedule_step": [torch.tensor(1.0), {}],
    "rest": [[1, 2], "123", [8, 24, "2"], torch.tensor([8, 24, 2]), [25, 24, 1], [0, 24, 0]],
    "elapsed_s": [torch.tensor(1.0), "1", float("nan"), -1.0],
    "world_size": ["1", 0, torch.tensor(1)],
    "config": [b"x: 1", 7, "", "a: [", "dataloader_args: {batch_size: many}", torch.zeros(3)],
    "speakers": ["abc", [1, 2], {"a": 1}, torch.zeros(2)],
    "made_from": [[], "x", {"noise": [1]}, {"noise": torch.tensor(1)}],
    "validation": [7, torch.tensor(1)],
    "journal": [[], {"epoch": {}}, "x"],
    "journal/epoch/sums": [{"loss": torch.tensor(1.0)}, {"loss": "1"}, []],
    "model": [[], {}, torch.zeros(2), {"conv1.weight": [1.0]}, {3: torch.zeros(1)}],
    "optimizer": [[], {}, {"state": [], "param_groups": []}, torch.zeros(2)],
    "optimizer/state": [{"0": {}}, {0: torch.zeros(2)}],
    "optimizer/param_groups": [{}, [1]],
    "scaler": [[], {"scale": "x"}, {"scale": torch.tensor(1.0)}, {"scale": 1.0}],
    "rng": [[1, 2], torch.zeros(3), torch.zeros(3, dtype=torch.uint8), "x"],
}
OTHER_TENSORS: dict[str, list[Callable[[Any], object]]] = {
    "model/conv1.weight": [lambda value: value.double(), lambda value: value.half(), lambda value: value[:1]],
    "model/bn1.num_batches_tracked": [lambda value: value.float()],
    "model": [
        lambda value: {**value, "more": torch.zeros(1)},
        lambda value: {name: each for name, each in value.items() if name != "conv1.weight"},
    ],
    "optimizer/state/0/momentum_buffer": [lambda value: value.double(), lambda value: value[:1]],
    "optimizer/state": [lambda value: {**value, 999: {"momentum_buffer": torch.zeros(1)}}],
    "optimizer/param_groups": [lambda value: [], lambda value: [*value, *value]],
    "optimizer/param_groups/0/lr": [str, lambda value: None],
    "optimizer/param_groups/0/momentum": [str],
    "optimizer/param_groups/0/params": [lambda value: value[1:], lambda value: "x"],
}  # fmt: skip


def test_a_sound_state_is_found_sound_and_taken(trainer: Trainer, state: State) -> None:
    checkpoint.save(state, trainer.folder.state(1))
    trainer.folder.models.mkdir()
    assert stages.verify_data(folders=trainer.folder) == []
    trainer.resume()
    assert trainer.step == 1


@pytest.mark.parametrize("key", OTHER_TYPES)
def test_values_of_other_types(trainer: Trainer, state: State, key: str) -> None:
    run = trainer.folder
    checkpoint.save(state, run.state(1))
    for value in OTHER_TYPES[key]:
        checkpoint.save(changed({**state, "step": 2}, key, lambda _, value=value: value), run.state(2))
        (finding,) = file_findings(RunFile(run.state(2), None))
        entry = key.replace("/", r"\.")
        found = r"step_2\.pt: .*"
        assert re.search(found + entry.partition(r"\.")[0], finding), (value, finding)
        if " not fit " in finding:  # of the right types, but too few
            continue
        assert newest_state(run) == run.state(1), value


@pytest.mark.parametrize("key", OTHER_TENSORS)
def test_tensors_of_another_network(trainer: Trainer, state: State, key: str) -> None:
    run = trainer.folder
    for change in OTHER_TENSORS[key]:
        checkpoint.save(changed(state, key, change), run.state(1))
        (finding,) = file_findings(RunFile(run.state(1), None))
        assert " not fit the network and its optimiser: " in finding
        assert key.split("/")[-1] in finding
        with pytest.raises(RecipeError, match="not fit the network and its optimiser"):
            trainer.resume()
        assert trainer.step == 1, "as it was"
