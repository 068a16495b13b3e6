"""A training that goes on with other batches: each utterance of the epoch once, schedules where they were."""

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wespeaker_qm import stages
from wespeaker_qm.config import Config
from wespeaker_qm.dataset.loader import TrainingBatch
from wespeaker_qm.dataset.plan import BatchPlan, Rest
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.train.resume import place_of
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder

NUM_UTTERANCES = 24


def plan(batch_size: int, world_size: int, num_samples: int = 100) -> BatchPlan:
    return BatchPlan(
        np.zeros(num_samples, np.int64),
        sampler="utterance",
        samples_per_epoch=0,
        batch_size=batch_size,
        seed=1,
        rank=0,
        world_size=world_size,
    )


def state(batch_size: int, world_size: int, epoch: int, **values: Any) -> dict[str, Any]:
    config = f"dataloader_args: {{batch_size: {batch_size}}}\n"
    return {"config": config, "world_size": world_size, "epoch": epoch, **values}


@pytest.mark.parametrize("divides", [False, True])
def test_the_same_batches_go_on_at_the_same_step(divides: bool) -> None:
    same = plan(5, 2)
    within = state(5, 2, 1, step=13, schedule_step=13, rest=[30, 100, 7])
    assert place_of(within, same, divides_classes=divides) == (13, 13, Rest(30, 100, 7))
    at_the_end = state(5, 2, 2, step=20, schedule_step=20, rest=None)
    assert place_of(at_the_end, same, divides_classes=divides) == (20, 20, None)


def test_a_state_of_an_earlier_version_has_a_place() -> None:
    """It had steps, or epochs alone."""
    assert place_of(state(5, 2, 1, step=13), plan(5, 2), divides_classes=False) == (13, 13, Rest(30, 100, 7))
    assert place_of(state(5, 2, 2), plan(5, 2), divides_classes=False) == (20, 20, None)
    assert place_of(state(5, 2, 2), plan(10, 2), divides_classes=False) == (20, 10, None)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "place"),
    [
        (10, 1, (13, 13, Rest(30, 100, 7))),  # the same samples in each step, on another number of processes
        (5, 4, (13, 6, Rest(30, 100, 4))),  # 70 samples in 4 of the 5 steps of an epoch
        (5, 1, (13, 26, Rest(30, 100, 14))),
        (30, 1, (13, 3, Rest(30, 100, 3))),  # as many steps as in a whole epoch
        (45, 2, (13, 1, Rest(30, 100, 1))),
    ],
)
def test_other_batches_go_on_where_the_schedules_were(batch_size: int, world_size: int, place: tuple[Any, ...]) -> None:
    saved = state(5, 2, 1, step=13, schedule_step=13, rest=[30, 100, 7])
    now = plan(batch_size, world_size)
    found = place_of(saved, now, divides_classes=False)
    assert found == place
    assert found.schedule_step + found.rest.steps == 2 * len(now), "the epoch ends where it does"


def test_a_second_change_goes_on_from_the_first() -> None:
    """Then a step has another size than the configuration says."""
    first = place_of(state(5, 2, 1, step=13, rest=[30, 100, 7]), plan(5, 4), divides_classes=False)
    before = plan(5, 4)
    before.set_epoch(2, first.rest)
    left = before.rest_after(1)
    assert left == Rest(50, 100, 3), "the first 6 of 16 parts of 70 samples have 5, the others 4"
    saved = state(5, 4, 1, step=14, schedule_step=first.schedule_step + 1, rest=list(left))
    assert place_of(saved, plan(1, 1), divides_classes=False) == (14, 200 - 50, Rest(50, 100, 50))


def test_of_divided_classes_batches_are_of_one_size() -> None:
    saved = state(5, 2, 1, step=13, rest=[30, 100, 7])
    assert place_of(saved, plan(5, 3), divides_classes=True).rest == Rest(30, 99, 5)
    assert place_of(saved, plan(5, 3), divides_classes=False).rest == Rest(30, 100, 5)


def test_no_process_is_without_a_sample_in_any_step() -> None:
    saved = state(2, 1, 1, step=97, rest=[94, 100, 3])
    assert place_of(saved, plan(1, 4), divides_classes=False).rest == Rest(94, 100, 1), "6 samples are not 2 steps of 4"


def test_more_processes_than_samples_left_are_refused() -> None:
    saved = state(1, 4, 1, step=49, rest=[96, 100, 1])
    with pytest.raises(RecipeError, match="processes: found 5, expected at most 4, as many as there are samples left"):
        place_of(saved, plan(1, 5), divides_classes=False)


def record_batches(folder: Path) -> None:
    """Let each process note the utterances of each step that it makes."""
    step = Trainer._step

    def recorded(self: Trainer, index: int, batch: TrainingBatch) -> None:
        rates = (self.parts.learning_rate(self.schedule_step), self.parts.margin(self.schedule_step))
        line = [self.last_epoch + 1, batch.utterance.tolist(), *rates]
        with (folder / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        step(self, index, batch)

    Trainer._step = recorded  # type: ignore[method-assign]


def stop_after(num_steps: int) -> None:
    save = Trainer._save

    def stopping(self: Trainer, epoch: int | None = None) -> None:
        save(self, epoch)
        if self.step == num_steps:
            self._writer.close()
            raise InterruptedError

    Trainer._save = stopping  # type: ignore[method-assign]


@pytest.mark.parametrize(("is_divided", "world_size", "steps"), [(False, 3, 4), (True, 2, 6)])
@pytest.mark.parametrize("sampler", ["utterance", "speaker_balanced"])
def test_every_utterance_of_the_epoch_is_seen_once(
    tiny_config: Config,
    tiny_corpus: Path,
    tmp_path: Path,
    ranks: Any,
    records: Any,
    is_divided: bool,
    world_size: int,
    steps: int,
    sampler: str,
) -> None:
    """Two processes of 3 are ended after two steps; one of 5 goes on, and after two more others of 2.

    Args:
        steps: of an epoch of the last ones.
    """
    config = dataclasses.replace(
        tiny_config,
        save_step_interval=1,
        valid_epoch_interval=0,
        log_batch_interval=1,
        dataset_args=dataclasses.replace(tiny_config.dataset_args, sampler=sampler),
        projection_args=dataclasses.replace(tiny_config.projection_args, shard_classes=is_divided),
    )
    config.save(tmp_path / "conf.yaml")

    def train(batch_size: int, num_steps: int, may_change: bool = True) -> None:
        record_batches(tmp_path)
        stop_after(num_steps)
        stages.train(
            data=tiny_corpus,
            run=tmp_path / "exp",
            config=tmp_path / "conf.yaml",
            overrides=f"dataloader_args.batch_size={batch_size}",
            allow_world_size_change=may_change,
        )

    failed = 3
    assert ranks(lambda: train(3, 2), 2) == [failed] * 2
    assert ranks(lambda: train(5, 9, may_change=False), 1) == [failed]
    assert ranks(lambda: train(5, 4), 1) == [failed]
    assert ranks(lambda: train(2, 99), world_size) == [0] * world_size
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    seen = [Counter(key for epoch, keys, *_ in lines if epoch == number for key in keys) for number in (1, 2, 3)]
    if sampler == "utterance":
        assert [set(each) for each in seen] == [set(range(NUM_UTTERANCES))] * 3
        assert [set(each.values()) for each in seen] == [{1}] * 3
    assert [sum(each.values()) for each in seen] == [NUM_UTTERANCES] * 3
    log = records(RunFolder(tmp_path / "exp"))
    made = [record for record in log if record["type"] == "step"]
    assert [record["step"] for record in made] == list(range(1, 6 + 2 * steps))
    assert [record["epoch"] for record in made] == [1] * 5 + [2] * steps + [3] * steps
    ended = [record["samples"] for record in log if record["type"] == "epoch"]
    assert ended == [NUM_UTTERANCES, 2 * NUM_UTTERANCES, 3 * NUM_UTTERANCES]
    margins = [record["margin"] for record in made]
    assert margins == sorted(margins)
    assert margins[5] == 0.0 < margins[6], "it grows from the beginning of the second epoch on"


def test_without_being_asked_the_difference_is_shown_and_the_remedy_works(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, ranks: Any
) -> None:
    dataclasses.replace(tiny_config, save_step_interval=1, valid_epoch_interval=0).save(tmp_path / "conf.yaml")

    def train(batch_size: int, *, seed: int = 42, may_change: bool = False) -> None:
        stages.train(
            data=tiny_corpus,
            run=tmp_path / "exp",
            config=tmp_path / "conf.yaml",
            overrides=[f"dataloader_args.batch_size={batch_size}", f"seed={seed}"],
            allow_world_size_change=may_change,
        )

    def stopped() -> None:
        stop_after(2)
        train(4)

    ranks(stopped, 2)
    with pytest.raises(RecipeError, match=r"to go on with other batches, add --allow_world_size_change true") as error:
        train(6)
    assert "dataloader_args.batch_size: was 4, now 6; processes: was 2, now 1. Nothing was trained." in str(error.value)
    with pytest.raises(RecipeError, match=r"seed: was 42, now 7\. Nothing was trained") as error:
        train(6, seed=7, may_change=True)
    assert "allow_world_size_change" not in str(error.value), "it would not help"
    train(6, may_change=True)
    assert RunFolder(tmp_path / "exp").model(3).is_file()
