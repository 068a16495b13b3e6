"""Two processes with disks of their own: they do the same, or are refused together; none goes on alone or waits."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wespeaker_qm.config import Config
from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.train.states import newest_state
from wespeaker_qm.utils.layout import RunFolder

MAIN = ["-m", "wespeaker_qm.bin.main", "train"]


class Result:
    """What became of a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=240)
        self.code = process.returncode


def start(*commands: list[str]) -> list[Result]:
    """A process a command, as torchrun starts them, but none is ended because another one ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    processes = []
    for rank, command in enumerate(commands):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **shared, **own},
            )
        )
    return [Result(process) for process in processes]


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: the command of a process, ``tmp_path / name`` being its experiment."""
    tiny_config.save(tmp_path / "conf.yaml")

    def command(name: str, *overrides: str, data: Path = tiny_corpus, config: str = "conf.yaml") -> list[str]:
        options = ["--data", str(data), "--exp_dir", str(tmp_path / name), "--config", str(tmp_path / config)]
        return [*MAIN, *options, "--set", "valid_epoch_interval=0", "num_epochs=2", *overrides]

    return command


def test_a_folder_that_is_not_shared_is_refused_on_all(train, tmp_path: Path) -> None:
    for result in start(train("one"), train("two")):
        assert result.code == 1, result.err
        assert f"--exp_dir {tmp_path / ' '}".strip() in result.err
        assert "process 1 on" in result.err
        assert "does not see what process 0" in result.err
    assert not list(tmp_path.glob("*/models/*"))
    assert not list(tmp_path.rglob(".shared*"))


def test_one_folder_under_two_names_is_shared_and_a_finished_run_is_skipped_by_all(train, tmp_path: Path) -> None:
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


def test_processes_that_would_go_on_from_other_epochs_are_refused(train, tmp_path: Path) -> None:
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


def test_other_data_on_one_process_are_refused_on_all(train, tiny_corpus: Path, tmp_path: Path) -> None:
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
def test_an_error_of_one_process_ends_all(train, faulty: int) -> None:
    commands = [train("run"), train("run")]
    commands[faulty] = train("run", config="none.yaml")
    for result in start(*commands):
        assert result.code == 1
        assert "none.yaml: cannot read this file" in result.err
        assert "bug" not in result.err


def test_other_settings_on_one_process_are_refused_on_all(train) -> None:
    for result in start(train("run"), train("run", "seed=7")):
        assert result.code == 1
        assert "seed: 42 there, 7 here" in result.err


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from wespeaker_qm.bin import main
from wespeaker_qm.train import loop, update
from wespeaker_qm.train.distributed import Processes
step = loop.Trainer._step
add_step = loop.Journal.add_step
figures = update.batch_figures
local = []

def recording(output, *args):
    local.append(output.loss.mean().item())
    return figures(output, *args)

def changed(self, index, batch):
    if index == 1 and self.parts.processes.rank == 1:
        FAULT
    step(self, index, batch)

def told(self, number, values, *args):
    print("STEP", json.dumps([local[number - 1], values["loss"]]))
    add_step(self, number, values, *args)

update.batch_figures = recording
loop.Trainer._step = changed
loop.Journal.add_step = told
sys.exit(main.main(sys.argv[1:]))
"""


def with_fault(tmp_path: Path, fault: str, command: list[str]) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("FAULT", fault))
    return [str(script), *command[2:]]


def test_a_loss_that_is_not_finite_on_one_process_stops_all_before_the_update(train, tmp_path: Path) -> None:
    command = with_fault(tmp_path, "batch.features[2] = float('nan')", train("run"))
    results = start(command, command)
    for result in results:
        assert result.code == 1, result.err
        assert "step 1 (epoch 2): the loss of" in result.err
        assert "of 16 utterances is not finite: " in result.err
        assert "(process 1)" in result.err
        assert "(process 0)" not in result.err
    assert [path.name for path in (tmp_path / "run" / "models").glob("model_*.pt")] == ["model_1.pt"]


def test_the_log_has_the_figures_of_all_processes(train, tmp_path: Path) -> None:
    command = with_fault(tmp_path, "pass", train("run"))
    first, second = (
        [json.loads(line.removeprefix("STEP ")) for line in result.out.splitlines() if line.startswith("STEP")]
        for result in start(command, command)
    )
    assert len(first) == len(second) == 2
    for (one, shown), (two, other) in zip(first, second, strict=True):
        assert one != two
        assert shown == other == pytest.approx((one + two) / 2, rel=1e-6)
    records = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if record["type"] == "epoch"] == [shown for _, shown in first]


def test_a_process_that_dies_does_not_leave_the_other_waiting(train, tmp_path: Path) -> None:
    command = with_fault(tmp_path, "import os; os._exit(9)", train("run"))
    first, second = start(command, command)
    assert second.code == 9
    assert first.code == 1
    assert re.search(r"process 0 of 2 on \S+ has lost another one", first.err)


def test_a_process_that_does_nothing_is_not_waited_for_for_ever(train, tmp_path: Path) -> None:
    """As one on a machine whose disk does not answer: its connection is not broken."""
    command = with_fault(tmp_path, "import time; time.sleep(25)", train("run"))
    script = Path(command[0])
    patience = "import datetime; from wespeaker_qm.train import distributed\ndistributed.TIMEOUT = datetime.timedelta"
    script.write_text(f"{patience}(seconds=8)\n{script.read_text()}")
    first, second = start(command, command)
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
