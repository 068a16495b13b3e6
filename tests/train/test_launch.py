"""Several processes under torchrun: started again when one has died, and the last that is told is why they ended."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wespeaker_qm.bin.main import main
from wespeaker_qm.config import AlphaArcMarginArgs, Config
from wespeaker_qm.train import launch
from wespeaker_qm.utils.layout import RunFolder

KILLED = Path(__file__).with_name("killed.py")
A3M_I = AlphaArcMarginArgs(project_type="alpha_arc_margin", scale=5.0, alpha=2.0, reinit_epoch=2, shard_classes=True)
PROGRAM = ("-m", "--", "wespeaker_qm.bin.main")


class Launched(subprocess.Popen[str]):
    """A launcher at work, with two processes of its own, or one of two machines' with one each."""

    def __init__(
        self,
        tmp_path: Path,
        *command: object,
        program: Sequence[object] = PROGRAM,
        max_restarts: int = 0,
        port: int | None = None,
    ) -> None:
        options: list[object] = ["--standalone", "--nproc_per_node", 2]
        if port is not None:
            options = ["--nnodes", 2, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port}", "--rdzv_id", 7]
        self.temporary = tmp_path / "tmp"
        self.temporary.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)}
        everything = ["-m", "wespeaker_qm.train.launch", *options, "--max_restarts", max_restarts, *program, *command]
        super().__init__(
            [sys.executable, *map(str, everything)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def told(self) -> list[str]:
        """The lines of standard error, when it has ended."""
        return self.communicate(timeout=400)[1].splitlines()

    def left(self) -> list[Path]:
        """What of the launcher's lies among temporary files when it has ended; torchrun would leave a folder."""
        return [path for path in self.temporary.iterdir() if re.search("elastic|launch", path.name)]


@pytest.fixture
def train(tiny_config: Config, tiny_corpus: Path, tmp_path: Path):
    """Function: the subcommand that trains into ``tmp_path / name``, and the configuration of it, saved."""

    def command(name: str = "exp", *overrides: str, **settings: Any) -> list[object]:
        batches = dataclasses.replace(tiny_config.dataloader_args, batch_size=4)
        own = {"save_step_interval": 1, "valid_epoch_interval": 0, "dataloader_args": batches, **settings}
        dataclasses.replace(tiny_config, **own).save(tmp_path / "conf.yaml")
        options = ["train", "--data", tiny_corpus, "--exp_dir", tmp_path / name, "--config", tmp_path / "conf.yaml"]
        return [*options, "--log", tmp_path / name / "log" / "train.log", "--set", *overrides]

    return command


@pytest.fixture
def straight(train: Any, tmp_path: Path, ranks: Any):
    """Function: two processes train, which nothing interrupts and no launcher starts; their run."""

    def run(name: str = "straight", *overrides: str, **settings: Any) -> RunFolder:
        _, *options = map(str, train(name, *overrides, **settings))
        assert ranks(lambda: sys.exit(main(["train", *options]))) == [0, 0]
        return RunFolder(tmp_path / name)

    return run


def ended_well(launched: Launched) -> list[str]:
    told = launched.told()
    assert launched.returncode == 0, told
    return told


def killed(tmp_path: Path, deaths: str) -> list[object]:
    """The program that dies in these ranks at these events."""
    (tmp_path / "deaths").mkdir()
    return ["--", KILLED, tmp_path / "deaths", deaths]


def test_killed_processes_are_started_again_with_the_same_result(
    train: Any, straight: Any, tmp_path: Path, assert_same_run: Any
) -> None:
    """The second process within the first epoch, the first one while it saves a state, in the epoch of A3M-I.

    Prototypes are divided, which needs most; those that are not are those of two machines, and in test_states.py.
    """
    settings = {"projection_args": A3M_I}
    expected = straight(**settings)
    launched = Launched(tmp_path, *train(**settings), program=killed(tmp_path, "1:3,0:43"), max_restarts=2)
    told = ended_well(launched)
    again = [line for line in told if line.startswith("all processes are started again")]
    assert [line.partition("(")[2].partition(")")[0] for line in again] == ["1 of 2 times", "2 of 2 times"], told
    assert len(list((tmp_path / "deaths").iterdir())) == 2
    assert_same_run(RunFolder(tmp_path / "exp"), expected)
    assert not launched.left()


def test_after_the_last_restart_the_signal_is_told(train: Any, tmp_path: Path) -> None:
    launched = Launched(tmp_path, *train(), program=killed(tmp_path, "1:3,1:3"), max_restarts=1)
    told = launched.told()
    assert launched.returncode == 128 + signal.SIGKILL
    assert told[-1] == (
        "error: process 1 was killed by SIGKILL (out of memory?); the same command goes on from the last state that "
        "was saved"
    )
    assert sum(line.startswith("error: process 0 of 2 on ") for line in told) == 1, "of the first time alone"
    assert not launched.left()


def test_what_is_wrong_for_all_is_told_once(train: Any, tmp_path: Path) -> None:
    launched = Launched(tmp_path, *train("exp", "seeed=1"))
    told = launched.told()
    assert launched.returncode == 1
    assert len(told) == 1
    assert told[0].startswith("error: command line: seeed: unknown key")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--set", "num_avg=9"], "error: command line and "),
        (["--resume", "perhaps"], "error: wespeaker-qm train: argument --resume: "),
    ],
)
def test_no_process_is_started_again_for_what_it_would_meet_again(
    train: Any, tmp_path: Path, wrong: list[str], told: str
) -> None:
    launched = Launched(tmp_path, *train(), *wrong, max_restarts=3)
    lines = launched.told()
    assert launched.returncode == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith(told)


def test_what_is_worth_a_second_look_is_told_once(train: Any, tmp_path: Path) -> None:
    told = ended_well(
        Launched(tmp_path, *train("exp", "scheduler_args.warm_up_epoch=9", "profile=[1,2]", num_epochs=1))
    )
    assert [line.partition(":")[0] for line in told] == ["config"] * 2 + ["projection_args"], told


def test_an_error_of_a_training_is_in_its_log_too(train: Any, straight: Any, tmp_path: Path) -> None:
    straight("exp", "num_epochs=1")
    launched = Launched(tmp_path, *train("exp", "seed=1"))
    (told,) = launched.told()
    assert "seed: was 42, now 1" in told
    assert f"ERROR {told}" in (tmp_path / "exp" / "log" / "train.log").read_text().splitlines()[-1]


def failure(status: int, timestamp: int, message: str = "", lost: bool = False) -> types.SimpleNamespace:
    """As torchrun knows it: of a process that left a message, that is a dictionary."""
    said = {"message": message, "lost": lost} if message else "Signal 9"
    return types.SimpleNamespace(exitcode=status, timestamp=timestamp, message=said)


@pytest.mark.parametrize(
    ("failures", "status", "told"),
    [
        # Who lost another one, or was ended by torchrun, is not to blame, even if torchrun saw it first.
        ([failure(1, 5, "lost", lost=True), failure(-9, 6)], 137, "process 1 was killed by SIGKILL (out of memory?); "),
        ([failure(-15, 5), failure(-6, 5)], 134, "process 1 was killed by SIGABRT (a library gave up"),
        ([failure(-11, 5), failure(-15, 5)], 139, "process 0 was killed by SIGSEGV (a fault in a compiled library, or"),
        ([failure(1, 6, "later"), failure(2, 5, "first"), failure(-9, 4)], 2, "first"),
        ([failure(1, 5, "lost", lost=True), failure(1, 6, "wrong")], 1, "wrong"),
        (
            [failure(1, 5, "lost", lost=True), failure(-15, 5)],
            143,
            "process 1 was killed by SIGTERM (somebody ended it); ",
        ),
        ([failure(1, 5, "lost", lost=True)], 1, "lost"),
        ([failure(143, 5), failure(143, 5)], 143, ""),
    ],
)
def test_the_process_to_blame_is_told(failures: list[Any], status: int, told: str, capsys: Any) -> None:
    assert launch._told(dict(enumerate(failures))) == status
    said = capsys.readouterr().err
    assert said.startswith(f"error: {told}") if told else not said


BUG = """
import os, sys
from wespeaker_qm.bin.main import main
from wespeaker_qm.train.loop import Trainer
step = Trainer._step
def faulty(self, index, batch):
    if index == 4 and os.environ["RANK"] == "1":
        raise KeyError("a bug")
    step(self, index, batch)
Trainer._step = faulty
sys.exit(main(sys.argv[1:]))
"""


def test_a_bug_of_one_process_is_told_after_what_the_others_say(train: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BUG)
    launched = Launched(tmp_path, *train(), program=["--", script])
    told = launched.told()
    assert launched.returncode == 2
    assert told[-1] == "error: a bug in wespeaker-qm, whose traceback stands above: KeyError('a bug')"
    assert sum("Traceback" in line for line in told) == 1
    assert not any("has lost another one" in line for line in told)


def test_a_signal_is_answered_once(train: Any, tmp_path: Path) -> None:
    launched = Launched(tmp_path, *train("exp", "num_epochs=100000"), max_restarts=3)
    run = RunFolder(tmp_path / "exp")
    while not list(run.states.glob("step_*.pt.crc32")):
        assert launched.poll() is None
        time.sleep(0.1)
    launched.terminate()
    told = launched.told()
    assert launched.returncode == 128 + signal.SIGTERM
    (stopped,) = (line for line in told if line.startswith("stopped by SIGTERM after step"))
    assert told[-1] == stopped


def test_two_machines_of_which_a_process_is_killed(
    train: Any, straight: Any, tmp_path: Path, assert_same_run: Any, free_port: Any
) -> None:
    expected = straight()
    program, port = killed(tmp_path, "1:4,0:30"), free_port()
    for node in [Launched(tmp_path, *train(), program=program, max_restarts=4, port=port) for _ in range(2)]:
        ended_well(node)
    assert len(list((tmp_path / "deaths").iterdir())) == 2
    assert_same_run(RunFolder(tmp_path / "exp"), expected)


def children(process: int) -> list[int]:
    """The numbers of its child processes."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    return [number for number, parent in parents.items() if parent == process]


def test_a_machine_that_was_lost_joins_again(
    train: Any, straight: Any, tmp_path: Path, free_port: Any, assert_same_run: Any
) -> None:
    """Power cut: nothing of it says goodbye. The other one waits for it."""
    expected = straight()
    command, port = train(), free_port()
    stays = Launched(tmp_path, *command, max_restarts=2, port=port)
    time.sleep(2)  # so that it is the first, whose machine the others talk to
    lost = Launched(tmp_path, *command, max_restarts=2, port=port)
    while not list(RunFolder(tmp_path / "exp").states.glob("step_*.pt.crc32")):
        assert stays.poll() is None
        time.sleep(0.02)
    for process in (*children(lost.pid), lost.pid):
        os.kill(process, signal.SIGKILL)
    lost.told()
    for node in (stays, Launched(tmp_path, *command, max_restarts=2, port=port)):
        ended_well(node)
    assert_same_run(RunFolder(tmp_path / "exp"), expected)


def test_machines_with_folders_of_their_own_are_refused(train: Any, tmp_path: Path, free_port: Any) -> None:
    port = free_port()
    nodes = [Launched(tmp_path, *train(name), port=port) for name in ("one", "two")]
    for node in nodes:
        told = node.told()
        assert node.returncode == 1
        assert "does not see what process 0" in told[-1]
        assert "name such a folder" in told[-1]
    assert not list(tmp_path.glob("*/models/*"))


def test_a_machine_that_finds_no_other_says_what_to_do(train: Any, tmp_path: Path, free_port: Any) -> None:
    command = train()
    node = Launched(tmp_path, *command, program=("--rdzv_conf", "join_timeout=2", *PROGRAM), port=free_port())
    told = node.told()
    assert node.returncode == 1
    assert told[-1].startswith("error: the machines that train together do not find each other (")
    assert "expected --num_nodes 2 of them, all with the same --job_id (7) and --HOST_NODE_ADDR (localhost:" in told[-1]
    assert not any("Traceback" in line for line in told)
