"""Two processes with disks of their own: they do the same, or are refused together; none goes on alone or waits."""

import datetime
import functools
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from wespeaker_qm.bin.main import main
from wespeaker_qm.config import Config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train import distributed, loop, update
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.states import newest_state
from wespeaker_qm.utils.layout import RunFolder


class Result(NamedTuple):
    """What became of a process."""

    code: int
    out: str
    err: str


def _run(prepare: Callable[[], None], options: list[str], folder: Path) -> None:
    """In a child: a command, whose output goes into two files."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    logging.getLogger().handlers.clear()
    prepare()
    sys.exit(main(options))


@pytest.fixture
def start(forked: Any, tmp_path_factory: pytest.TempPathFactory):
    """Function: a process a command, as torchrun starts them, but none is ended because another one ended."""

    def together(*commands: list[str], prepare: Callable[[], None] = lambda: None) -> list[Result]:
        folders = [tmp_path_factory.mktemp("process") for _ in commands]
        works = zip(commands, folders, strict=True)
        children = forked([functools.partial(_run, prepare, command, folder) for command, folder in works])
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        outputs = ([(folder / name).read_text() for name in ("out", "err")] for folder in folders)
        return [Result(code, *output) for code, output in zip(codes, outputs, strict=True)]

    return together


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: the command of a process, ``tmp_path / name`` being its experiment."""
    tiny_config.save(tmp_path / "conf.yaml")

    def command(name: str, *overrides: str, data: Path = tiny_corpus, config: str = "conf.yaml") -> list[str]:
        options = ["--data", str(data), "--exp_dir", str(tmp_path / name), "--config", str(tmp_path / config)]
        return ["train", *options, "--set", "valid_epoch_interval=0", "num_epochs=2", *overrides]

    return command


def test_a_folder_that_is_not_shared_is_refused_on_all(start, train, tmp_path: Path) -> None:
    for result in start(train("one"), train("two")):
        assert result.code == 1, result.err
        assert f"--exp_dir {tmp_path / ' '}".strip() in result.err
        assert "process 1 on" in result.err
        assert "does not see what process 0" in result.err
    assert not list(tmp_path.glob("*/models/*"))
    assert not list(tmp_path.rglob(".shared*"))


def test_one_folder_under_two_names_is_shared_and_a_finished_run_is_skipped_by_all(
    start, train, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").symlink_to(tmp_path / "one")
    commands = train("one"), train("two")
    assert [result.code for result in start(*commands)] == [0, 0]
    model = RunFolder(tmp_path / "one").model(2)
    before = model.stat().st_mtime_ns
    first, second = start(*commands)
    assert (first.code, second.code) == (0, 0)
    assert "nothing changed since the last run, skipped" in first.out
    # A second machine that has no such folder does not wait for the first one, and trains nothing.
    first, second = start(train("one"), train("elsewhere"))
    assert (first.code, second.code) == (0, 0)
    assert model.stat().st_mtime_ns == before
    assert not (tmp_path / "elsewhere").exists()


def test_processes_that_would_go_on_from_other_epochs_are_refused(start, train, tmp_path: Path) -> None:
    """As seen in the field: each machine has its own disk, and on it another epoch."""
    start(train("one"), train("one"))
    (tmp_path / "one" / ".done" / "train").unlink()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    path = newest_state(RunFolder(tmp_path / "two"))
    checkpoint.save({**checkpoint.load(path), "epoch": 1, "step": 1}, path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/models/*")}
    for result in start(train("one"), train("two")):
        assert result.code == 1
        assert "does not see" in result.err
    assert {path: path.read_bytes() for path in tmp_path.glob("*/models/*")} == before


def test_other_data_on_one_process_are_refused_on_all(start, train, tiny_corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_corpus, other)
    shutil.rmtree(other / "noise")
    shutil.copytree(other / "rirs", other / "noise")
    for result in start(train("run"), train("run", data=other)):
        assert result.code == 1
        assert "what is trained on differs between process 0" in result.err
        assert "noise: " in result.err
        assert "training audio: " not in result.err


@pytest.mark.parametrize("faulty", [0, 1])
def test_an_error_of_one_process_ends_all(start, train, faulty: int) -> None:
    commands = [train("run"), train("run")]
    commands[faulty] = train("run", config="none.yaml")
    for result in start(*commands):
        assert result.code == 1
        assert "none.yaml: cannot read this file" in result.err
        assert "bug" not in result.err


def test_other_settings_on_one_process_are_refused_on_all(start, train) -> None:
    for result in start(train("run"), train("run", "seed=7")):
        assert result.code == 1
        assert "seed: 42 there, 7 here" in result.err


def with_fault(fault: Callable[[Any], object]) -> Callable[[], None]:
    """What a child does first: let process 1 do something with its second batch, and print each step's loss, its own
    and the one that is logged."""

    def prepare() -> None:
        step, add_step, figures = loop.Trainer._step, loop.Journal.add_step, update.batch_figures
        local: list[float] = []

        def recording(output: Any, *args: Any) -> Any:
            local.append(output.loss.mean().item())
            return figures(output, *args)

        def changed(self: Any, index: int, batch: Any) -> None:
            if index == 1 and self.parts.processes.rank == 1:
                fault(batch)
            step(self, index, batch)

        def told(self: Any, number: int, values: Any, *args: Any) -> None:
            print("STEP", json.dumps([local[number - 1], values["loss"]]))
            add_step(self, number, values, *args)

        update.batch_figures, loop.Trainer._step, loop.Journal.add_step = recording, changed, told

    return prepare


def test_a_loss_that_is_not_finite_on_one_process_stops_all_before_the_update(start, train, tmp_path: Path) -> None:
    prepare = with_fault(lambda batch: batch.features[2].fill_(torch.nan))
    results = start(train("run"), train("run"), prepare=prepare)
    for result in results:
        assert result.code == 1, result.err
        assert "step 1 (epoch 2): the loss of" in result.err
        assert "of 16 utterances is not finite: " in result.err
        assert "(process 1)" in result.err
        assert "(process 0)" not in result.err
    assert [path.name for path in (tmp_path / "run" / "models").glob("model_*.pt")] == ["model_1.pt"]


def test_the_log_has_the_figures_of_all_processes(start, train, tmp_path: Path) -> None:
    prepare = with_fault(lambda batch: None)
    first, second = (
        [json.loads(line.removeprefix("STEP ")) for line in result.out.splitlines() if line.startswith("STEP")]
        for result in start(train("run"), train("run"), prepare=prepare)
    )
    assert len(first) == len(second) == 2
    for (one, shown), (two, other) in zip(first, second, strict=True):
        assert one != two
        assert shown == other == pytest.approx((one + two) / 2, rel=1e-6)
    records = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if record["type"] == "epoch"] == [shown for _, shown in first]


def test_a_process_that_dies_does_not_leave_the_other_waiting(start, train, tmp_path: Path) -> None:
    prepare = with_fault(lambda batch: os._exit(9))
    first, second = start(train("run"), train("run"), prepare=prepare)
    assert second.code == 9
    assert first.code == 1
    assert re.search(r"process 0 of 2 on \S+ has lost another one", first.err)


def test_a_process_that_does_nothing_is_not_waited_for_for_ever(
    start, train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one on a machine whose disk does not answer: its connection is not broken."""
    prepare = with_fault(lambda batch: time.sleep(16))
    monkeypatch.setattr(distributed, "TIMEOUT", datetime.timedelta(seconds=8))
    first, second = start(train("run"), train("run"), prepare=prepare)
    assert (first.code, second.code) == (1, 1)
    assert "process 0 of 2 on " in first.err
    assert "has lost another one, which ended too early or did nothing for 0.133333 minutes" in first.err
    assert "Traceback" not in first.err


def test_alone_a_process_decides_and_fails_by_itself() -> None:
    alone = Processes(rank=0, world_size=1, device=torch.device("cpu"))
    assert alone.first_decides(lambda: 3) == 3
    assert alone.gather("x") == ["x"]
    alone.agree({"epoch": 1}, "the state")
    with pytest.raises(ZeroDivisionError):
        alone.together(lambda: 1 / 0)
