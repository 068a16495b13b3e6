"""Moments: of the host's clock, or events in a GPU's stream, which a fake one stands for here."""

import time

import pytest
import torch

from wespeaker_qm.utils.moments import Moment


def test_on_the_cpu_a_moment_is_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    began, ended = (Moment(torch.device("cpu")) for _ in range(2))
    assert ended.ms_since(began) == 250.0
    assert began.ms_since(ended) == -250.0


def test_on_a_gpu_it_is_an_event_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has neither ``synchronize`` nor ``query``."""
    recorded: list[object] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            recorded.append(self)

        def elapsed_time(self, later: "Event") -> float:
            return float(recorded.index(later) - recorded.index(self))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    moments = [Moment(torch.device("cuda")) for _ in range(3)]
    assert len(recorded) == 3
    assert moments[2].ms_since(moments[0]) == 2.0
