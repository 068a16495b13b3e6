"""A training that is killed at any moment goes on from its last state to the same weights and the same log."""

import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wespeaker_qm import stages
from wespeaker_qm.config import AlphaArcMarginArgs, Config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.loop import Trainer
from wespeaker_qm.train.states import StateWriter, read_state, state_paths
from wespeaker_qm.utils.checksums import checksum_path
from wespeaker_qm.utils.ending import COMMAND, STOPPING, Stopped
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.ownership import LEDGER

FAILED = 3
A3M_I = AlphaArcMarginArgs(project_type="alpha_arc_margin", scale=5.0, alpha=2.0, reinit_epoch=2)


@pytest.mark.parametrize(
    "settings",
    [{}, {"projection_args": A3M_I}, {"enable_amp": True}, {"enable_amp": True, "amp_dtype": "bf16"}],
    ids=["plain", "A3M-I", "fp16", "bf16"],
)
def test_killed_at_any_moment(
    tiny_config: Config,
    tiny_corpus: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    in_child: Any,
    kill_at: Any,
    assert_same_run: Any,
) -> None:
    config = dataclasses.replace(tiny_config, save_step_interval=1, valid_epoch_interval=0, **settings)
    config.save(tmp_path / "conf.yaml")

    def train(name: str) -> None:
        stages.train(data=tiny_corpus, run=tmp_path / name, config=tmp_path / "conf.yaml")

    def killed(event: int) -> None:
        kill_at(event)
        train("killed")

    straight, run = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "killed")
    assert in_child(lambda: train("straight")) == 0
    events = [2, 16, 41, 33, 47, 38, 29] if not settings else [43, 52]
    assert [in_child(lambda event=event: killed(event)) for event in events] == [-signal.SIGKILL] * len(events)
    assert in_child(lambda: train("killed")) == 0
    assert_same_run(run, straight)
    assert [path.name for path in state_paths(run)] == ["step_9.pt"]
    assert not list(run.path.rglob("*.tmp*"))


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: train into ``tmp_path / name``; a state of each of the 9 steps."""
    config = dataclasses.replace(tiny_config, save_step_interval=1, valid_epoch_interval=0)
    config.save(tmp_path / "conf.yaml")

    def call(*overrides: str, name: str = "exp") -> None:
        stages.train(data=tiny_corpus, run=tmp_path / name, config=tmp_path / "conf.yaml", overrides=overrides)

    return call


def stopped_after(num_steps: int, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def stopping(self: Trainer, index: int, batch: Any) -> None:
        if index == num_steps:
            raise Killed
        step(self, index, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopping)
        with pytest.raises(Killed):
            work()


@pytest.fixture
def run(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that was stopped after 5 steps."""
    stopped_after(5, train, monkeypatch)
    return RunFolder(tmp_path / "exp")


def test_the_newest_two_states_are_kept(run: RunFolder) -> None:
    assert [path.name for path in state_paths(run)] == ["step_5.pt", "step_4.pt"]
    assert sorted(path.name for path in run.states.iterdir()) == [
        name for step in (4, 5) for name in (f"step_{step}.pt", f"step_{step}.pt.crc32")
    ]
    assert (read_state(run.state(5))["epoch"], read_state(run.state(5))["step"]) == (1, 5)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": lambda path: path.write_bytes(path.read_bytes()[:5000] + b"?" + path.read_bytes()[5001:]),
    "a bit, without a checksum": lambda path: (DAMAGES["a bit"](path), checksum_path(path).unlink()),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-900]),
    "empty": lambda path: path.write_bytes(b""),
    "weights alone": lambda path: checkpoint.save(read_state(path)["model"], path),
    "not finite": lambda path: checkpoint.save(
        {**read_state(path), "model": {"conv1.weight": torch.tensor([torch.nan])}}, path
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_state_the_one_before_is_taken(
    run: RunFolder, train, damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Path, assert_same_run: Any
) -> None:
    train(name="straight")
    DAMAGES[damage](run.state(5))
    with caplog.at_level(logging.INFO):
        train()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(f"{run.state(5)}: " in text and f"the state before it, {run.state(4)}" in text for text in warnings)
    assert f"resumed after epoch 1 of 3 and 1 step of 3 ({run.state(4)})" in caplog.text
    assert_same_run(run, RunFolder(tmp_path / "straight"))
    assert [path.name for path in state_paths(run)] == ["step_9.pt"]


def test_a_damaged_state_never_takes_the_place_of_a_sound_one(run: RunFolder) -> None:
    """A training that goes on from before it keeps what it went on from until there are two newer ones."""
    state = {**read_state(run.state(4)), "step": 4}
    run.state(5).write_bytes(b"")
    run.state(9).write_bytes(b"")
    with StateWriter(run, before=run.state(4)) as writer:
        writer.write({**state, "step": 6})
    assert [path.name for path in state_paths(run)] == ["step_6.pt", "step_4.pt"]


def test_where_all_states_are_damaged_nothing_is_touched(run: RunFolder, train) -> None:
    for step in (4, 5):
        run.state(step).write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"step_5\.pt: .*put back a copy of it, or delete resume/ and \.done/train"):
        train()
    assert len(state_paths(run)) == 2
    shutil.rmtree(run.states)  # as the message says
    train()


def test_a_state_that_is_not_finite_is_not_written_and_told_with_the_next(run: RunFolder) -> None:
    state = read_state(run.state(5))
    bad = {**state, "step": 6, "model": {"conv1.weight": torch.tensor([torch.inf])}}
    message = r"step 6: 1 of the 1 values of model\.conv1\.weight are NaN or infinite"
    with pytest.raises(RecipeError, match=message), StateWriter(run) as writer:
        writer.write(bad)
        writer.write(state)
    assert not run.state(6).exists()
    assert [path.name for path in state_paths(run)] == ["step_5.pt", "step_4.pt"]


def test_a_full_disk_ends_the_training_and_the_state_before_stays(run: RunFolder, train, monkeypatch) -> None:

    def full(value: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train()
    assert [path.name for path in state_paths(run)] == ["step_5.pt", "step_4.pt"]


def test_a_state_is_what_it_was_when_it_was_handed_over(run: RunFolder) -> None:
    state = checkpoint.load(run.state(5))
    weight = state["model"]["seg_1.weight"]
    before = weight.clone()
    with StateWriter(run) as writer:
        writer.write({**state, "step": 6})
        weight.zero_()
    assert torch.equal(read_state(run.state(6))["model"]["seg_1.weight"], before)


@pytest.mark.parametrize("place", range(len(RunFolder("exp").earlier_states)))
def test_a_state_of_an_earlier_version_is_gone_on_from(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, assert_same_run: Any
) -> None:
    """It knew epochs only, and had one file."""
    train(name="straight")
    stopped_after(3, train, monkeypatch)
    run = RunFolder(tmp_path / "exp")
    state = {name: value for name, value in read_state(run.state(3)).items() if name not in ("step", "journal")}
    shutil.rmtree(run.states)
    earlier = run.earlier_states[place]
    checkpoint.save(state, earlier)
    ledger = run.path / LEDGER
    ledger.write_text(ledger.read_text().replace("\nresume\n", f"\n{earlier.relative_to(run)}\n"))
    train()
    assert_same_run(run, RunFolder(tmp_path / "straight"))
    assert not earlier.exists()


SHARDED_A3M_I = dataclasses.replace(A3M_I, shard_classes=True)


@pytest.mark.parametrize("projection", [None, A3M_I, SHARDED_A3M_I], ids=["plain", "A3M-I", "divided A3M-I"])
def test_two_processes_of_which_one_is_killed(
    tiny_config: Config,
    tiny_corpus: Path,
    tmp_path: Path,
    projection: AlphaArcMarginArgs | None,
    ranks: Any,
    assert_same_run: Any,
) -> None:
    config = dataclasses.replace(
        tiny_config,
        save_step_interval=1,
        valid_epoch_interval=0,
        dataloader_args=dataclasses.replace(tiny_config.dataloader_args, batch_size=4),
        projection_args=projection or tiny_config.projection_args,
    )
    config.save(tmp_path / "conf.yaml")

    def train(name: str) -> None:
        stages.train(data=tiny_corpus, run=tmp_path / name, config=tmp_path / "conf.yaml")

    def dying(rank: str, num_steps: int) -> None:
        step = Trainer._step

        def stopping(self: Trainer, index: int, batch: Any) -> None:
            if index == num_steps and os.environ["RANK"] == rank:
                os.kill(os.getpid(), signal.SIGKILL)
            step(self, index, batch)

        Trainer._step = stopping  # type: ignore[method-assign]
        train("killed")

    assert ranks(lambda: train("straight")) == [0, 0]
    for rank, num_steps in (("1", 2), ("0", 3), ("1", 7)):  # 3: the epoch of the new prototypes begins
        statuses = ranks(lambda rank=rank, num_steps=num_steps: dying(rank, num_steps))
        assert statuses[int(rank)] == -signal.SIGKILL
        assert statuses[1 - int(rank)] == FAILED
    assert ranks(lambda: train("killed")) == [0, 0]
    assert_same_run(RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "straight"))


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_to_one_of_two_processes_saves_and_ends_both(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, number: int, ranks: Any
) -> None:
    batches = dataclasses.replace(tiny_config.dataloader_args, batch_size=4)
    dataclasses.replace(tiny_config, valid_epoch_interval=0, dataloader_args=batches).save(tmp_path / "conf.yaml")

    def work() -> None:
        asked_at_step(4, number, rank="1")
        stages.train(data=tiny_corpus, run=tmp_path / "exp", config=tmp_path / "conf.yaml")

    assert ranks(work) == [128 + number] * 2
    assert state_paths(RunFolder(tmp_path / "exp"))[0].name == "step_6.pt"


@pytest.mark.parametrize(
    "num_steps", [3, 4, 5, 8], ids=["within an epoch", "before its end", "at its end", "at the last step"]
)
def test_a_signal_saves_and_says_what_goes_on(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_steps: int, assert_same_run: Any
) -> None:
    """After the step that follows, but at the end of an epoch at once; then there may be nothing to go on with."""
    monkeypatch.setenv(COMMAND, "./run.sh --stage 3")
    train(name="straight")
    run = RunFolder(tmp_path / "exp")
    with monkeypatch.context() as patch:
        asked_at_step(num_steps, signal.SIGTERM, setattr=patch.setattr)
        if num_steps == 8:
            train("save_step_interval=0")
        else:
            last = num_steps + 2 if (num_steps + 1) % 3 else num_steps + 1
            message = rf"SIGTERM after step {last} of 9, .*step_{last}\.pt; to go on: \./run\.sh --s"
            with pytest.raises(Stopped, match=message) as stopped:
                train("save_step_interval=0")
            assert stopped.value.number == signal.SIGTERM
            assert state_paths(run)[0] == run.state(last)
    train()
    assert_same_run(run, RunFolder(tmp_path / "straight"))


def test_a_signal_to_the_whole_group_saves_too(
    tiny_config: Config, tiny_corpus: Path, tmp_path: Path, in_child: Any
) -> None:
    """As timeout, a terminal and Slurm send it: workers must not end by it before the training has saved."""
    workers = dataclasses.replace(tiny_config.dataloader_args, num_workers=1)
    config = dataclasses.replace(tiny_config, valid_epoch_interval=0, save_step_interval=0, dataloader_args=workers)
    config.save(tmp_path / "conf.yaml")
    step = Trainer._step

    def work() -> None:
        os.setpgid(0, 0)

        def signalled(self: Trainer, index: int, batch: Any) -> None:
            if index == 4:
                # From outside of the group: of their parent workers take it otherwise.
                subprocess.run(["kill", "-TERM", "--", str(-os.getpgid(0))], check=True, start_new_session=True)
                time.sleep(1)  # so that the end of a worker would be seen
            step(self, index, batch)

        Trainer._step = signalled  # type: ignore[method-assign]
        stages.train(data=tiny_corpus, run=tmp_path / "exp", config=tmp_path / "conf.yaml")

    assert in_child(work) == 128 + signal.SIGTERM
    assert state_paths(RunFolder(tmp_path / "exp"))[0].name == "step_6.pt"


def asked_at_step(num_steps: int, number: int, rank: str = "0", setattr: Callable[..., None] = setattr) -> None:
    """Let a process be sent a signal while it makes a step."""
    step = Trainer._step

    def signalled(self: Trainer, index: int, batch: Any) -> None:
        if index == num_steps and os.environ.get("RANK", "0") == rank:
            os.kill(os.getpid(), number)
        step(self, index, batch)

    setattr(Trainer, "_step", signalled)
