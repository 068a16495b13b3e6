"""Trainings in child processes, and whether two of them are the same."""

import json
import logging
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from wespeaker_qm.train.states import newest_state, read_state
from wespeaker_qm.utils.ending import Stopped
from wespeaker_qm.utils.layout import RunFolder

KILLED = Path(__file__).with_name("killed.py")
TIMES = ("samples_per_s", "wait_s", "minutes", "speed")
FAILED = 3


def _records(run: RunFolder) -> list[dict[str, Any]]:
    lines = run.training_log.read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


@pytest.fixture(scope="session")
def records() -> Callable[[RunFolder], list[dict[str, Any]]]:
    """Function: the log of a run without times."""
    return _records


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[RunFolder, RunFolder], None]:
    """Function: three epochs of two runs are the same to the bit, models, last states and logs."""
    return _assert_same_run


def _assert_same_run(run: RunFolder, other: RunFolder) -> None:
    for epoch in (1, 2, 3):
        assert run.model(epoch).read_bytes() == other.model(epoch).read_bytes(), epoch
    state, expected = (read_state(newest_state(each)) for each in (run, other))
    for name in ("epoch", "step", "scaler"):
        assert state[name] == expected[name]
    assert state["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()
    for index, values in state["optimizer"]["state"].items():
        assert torch.equal(values["momentum_buffer"], expected["optimizer"]["state"][index]["momentum_buffer"])
    assert torch.equal(state["rng"], expected["rng"])
    assert _records(run) == _records(other)


def _finish(work: Callable[[], None]) -> NoReturn:
    """Do ``work`` in a child process, and end it."""
    try:
        work()
    except Stopped as stopped:
        os._exit(128 + stopped.number)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else FAILED)
    except BaseException:
        logging.getLogger(__name__).exception("in the child:")
        os._exit(FAILED)
    os._exit(0)


@pytest.fixture(scope="session")
def kill_at() -> Callable[[int], None]:
    """Function: let this process be killed before the event-th of what it does with files, and of its steps."""
    function: Callable[[int], None] = runpy.run_path(str(KILLED))["kill_at"]
    return function


@pytest.fixture(scope="session")
def in_child() -> Callable[[Callable[[], None]], int]:
    """Function: do something in a child process; its exit status, or minus the signal that killed it."""

    def run(work: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            _finish(work)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return _free_port


def _forked(works: Sequence[Callable[[], None]]) -> list[int]:
    """Process numbers of children, each of which does its work and knows what torchrun would tell it."""
    port = _free_port()
    children = []
    for rank, work in enumerate(works):
        child = os.fork()
        if child == 0:
            names = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": len(works), "RANK": rank}
            os.environ.update({name: str(value) for name, value in names.items()})
            _finish(work)
        children.append(child)
    return children


@pytest.fixture(scope="session")
def forked() -> Callable[[Sequence[Callable[[], None]]], list[int]]:
    """Function: process numbers of children that do these works together.

    They are children, so that they need not import all again.
    """
    return _forked


@pytest.fixture(scope="session")
def ranks() -> Callable[..., list[int]]:
    """Function: exit statuses of ``num`` such processes that do the same work."""

    def run(work: Callable[[], None], num: int = 2) -> list[int]:
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in _forked([work] * num)]

    return run
