"""The trace of some steps: in the run's folder, of these steps alone, and without effect on the training."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.train.states import newest_state, read_state
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder


def test_steps_are_traced_and_the_weights_are_what_they_were(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path
) -> None:
    dataclasses.replace(tiny_config, num_epochs=2, valid_epoch_interval=0).save(tmp_path / "conf.yaml")

    def train(name: str, *overrides: str) -> RunFolder:
        run = RunFolder(tmp_path / name)
        stages.train(data=tiny_corpus, run=run, config=tmp_path / "conf.yaml", overrides=overrides)
        return run

    plain, traced = train("plain"), train("traced", "profile=[2,4]")
    with gzip.open(traced.trace(0), "rt") as handle:
        events = json.load(handle)["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step") for event in events) == 2
    assert not plain.traces.exists()
    states = [read_state(newest_state(run))["model"] for run in (plain, traced)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    train("traced", "profile=null", "num_epochs=2")  # no other run, and nothing to do


@pytest.mark.parametrize("steps", ["[4,4]", "[5,2]"])
def test_steps_that_end_before_they_begin_are_refused(tiny_yaml: Path, steps: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"profile: found \[{steps[1]}, {steps[3]}\], expected the first step and a la"
    ):
        load_config([tiny_yaml], [f"profile={steps}"])


@pytest.mark.parametrize("steps", ["[4]", "[1,2,3]", "3", "[-1,2]"])
def test_anything_but_two_steps_is_refused(tiny_yaml: Path, steps: str) -> None:
    with pytest.raises(RecipeError, match="profile"):
        load_config([tiny_yaml], [f"profile={steps}"])
