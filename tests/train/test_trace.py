"""The trace of some steps: in the run's folder, of these steps alone, and without effect on the training."""

import dataclasses
import gzip
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.config import Config, load_config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.train.build import build_training
from wespeaker_qm.train.distributed import ALONE, Processes
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.train.states import newest_state, read_state
from wespeaker_qm.train.trace import StepTrace, _without_chatter
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import DataFolder, RunFolder


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


def test_what_the_profilers_library_says_of_itself_is_left_out(tmp_path: Path, capfd: Any) -> None:
    trace = StepTrace(RunFolder(tmp_path), (0, 1), ALONE)
    trace.begin(0)
    with _without_chatter():
        os.write(2, b"USDT:2026-11-26 10:17:55 1:1 A.cpp:39] profiler_start\nanother's line\n")
        os.write(
            2, b"ERROR:2026-11-26 10:17:55 1:1 D.cpp:56] gpuGetDeviceCount failed with code 35\nand one without end"
        )
    trace.end(1)
    assert RunFolder(tmp_path).trace(0).is_file()
    assert capfd.readouterr().err == "another's line\nand one without end"


def test_of_several_processes_each_trace_is_named(tmp_path: Path, caplog: Any) -> None:
    trace = StepTrace(RunFolder(tmp_path), (0, 1), Processes(rank=0, world_size=3, device=torch.device("cpu")))
    trace.begin(0)
    with caplog.at_level(logging.INFO, "wespeaker_qm"):
        trace.end(1)
    names = [RunFolder(tmp_path).trace(rank).name for rank in (0, 2)]
    assert f"{tmp_path / 'profile'}: the traces of these steps, {names[0]} to {names[1]}, one of each" in caplog.text


def test_a_trace_that_cannot_be_written_ends_nothing_and_hides_no_error(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, caplog: Any
) -> None:
    """The first is to be written in the middle of the training, the other one when an error has ended it."""
    for profile in ((1, 2), (1, 9)):
        config = dataclasses.replace(tiny_config, num_epochs=1, valid_epoch_interval=0, profile=profile)
        run = RunFolder(tmp_path / str(profile[1]))
        run.path.mkdir()
        run.traces.write_text("in the way")
        trainer = Trainer(config, build_training(config, DataFolder(tiny_corpus), ALONE), run)
        if profile == (1, 2):
            trainer.run()
        else:
            trainer.parts.loader = failing(trainer.parts.loader)
            with pytest.raises(KeyError, match="the reason"):
                trainer.run()
        assert f"error: {run.trace(0)}: the trace of these steps cannot be written" in caplog.text
        caplog.clear()


def failing(batches: Iterable[TrainingBatch]) -> Iterator[TrainingBatch]:
    yield from itertools.islice(batches, 2)
    raise KeyError("the reason")


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
