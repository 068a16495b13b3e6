"""tools/soak.py notices what it is there to notice: files that differ, processes that stay, statuses, bugs."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "tools" / "soak.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(folder: Path, time: str, weight: float = 1.0) -> Path:
    """A run, made at some time."""
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "train.log").write_text(f"{time} started\n")
    (folder / "resume").mkdir()
    state = {"step": 3, "elapsed_s": float(len(time)), "model": {"weight": torch.tensor([weight, 0.1])}}
    torch.save(state, folder / "resume" / "step_3.pt")
    (folder / "metrics.json").write_text(json.dumps({"eer": 0.1, "run": {"time": time, "minutes": len(time)}}))
    (folder / "train_log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "minutes": len(time)}) + "\n")
    (folder / "report.md").write_text(f"made at {time}, after {len(time)}.5 minutes: 10.1 %\n")
    (folder / "model.pt").write_bytes(b"weights")
    return folder


def test_times_may_differ_and_nothing_else(soak: ModuleType, tmp_path: Path) -> None:
    one = tree(tmp_path / "one", "2026-01-31T12:00:00+00:00")
    other = tree(tmp_path / "other", "2027-01-31T12:00+00:00")
    assert soak.differences(one, other) == []
    (other / "model.pt").write_bytes(b"Weights")
    (other / "metrics.json").write_text(json.dumps({"eer": 0.2, "run": {"time": "", "minutes": 1}}))
    (other / "train_log.jsonl").write_text(json.dumps({"step": 1, "loss": 0.25, "minutes": 1}) + "\n")
    (other / "report.md").write_text("made at 2027-01-31T12:00+00:00, after 1 minutes: 10.2 %\n")
    (other / "left.tmp").touch()
    assert soak.differences(one, other) == [
        f"left.tmp: only in {other}",
        *(f"{name}: another content" for name in ("metrics.json", "model.pt", "report.md", "train_log.jsonl")),
    ]


def test_weights_of_a_state_count_to_the_last_digit(soak: ModuleType, tmp_path: Path) -> None:
    one = tree(tmp_path / "one", "2026-01-31T12:00:00+00:00")
    other = tree(tmp_path / "other", "2026-01-31T12:00:00+00:00", weight=1.0 + 2**-23)
    assert soak.differences(one, other) == ["resume/step_3.pt: another content"]


STAGE = """#!/bin/bash
# A stage that works for a second, in a process of its own, and answers SIGTERM.
trap 'kill $child; wait $child; exit 143' TERM
{python} -c "import time; time.sleep({seconds})" &
child=$!
{said}
wait $child
"""


class FaultError(Exception):
    """The soak found a fault."""


@pytest.fixture
def soaking(soak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function: kind of kill, what a stage says, how long its process works -> kill it once."""
    monkeypatch.setattr(soak, "ROOT", tmp_path)
    monkeypatch.setattr(soak, "SECONDS_TO_END", 3.0)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "output.txt").touch()

    def fail(self: Any, fault: str) -> None:
        for number in soak.processes(self.tag):
            os.kill(number, signal.SIGKILL)
        raise FaultError(fault)

    def once(kind: str, said: str = "", seconds: float = 60) -> Any:
        script = tmp_path / "run.sh"
        script.write_text(STAGE.format(python=sys.executable, said=said, seconds=seconds))
        script.chmod(0o755)
        monkeypatch.setattr(soak, "KINDS", (kind,))
        found = soak.Soak(tmp_path / "work", 0, tmp_path)
        found.seconds["2 1"] = 1.0
        start = found.start

        def tagged(stage: int, tag: str, **options: int) -> Any:
            found.tag = tag
            process = start(stage, tag, **options)
            while len(soak.processes(tag)) < 2:
                time.sleep(0.01)
            return process

        monkeypatch.setattr(found, "start", tagged)
        monkeypatch.setattr(soak.Soak, "fail", fail)
        assert found.disturb(2, 1)
        return found

    return once


@pytest.mark.parametrize("kind", ["tree", "term", "one"])
def test_a_kill_is_survived_and_counted(soak: ModuleType, soaking: Any, kind: str, tmp_path: Path) -> None:
    found = soaking(kind)
    assert (found.kills, found.tally) == (1, {f"{kind}, stage 2": 1})
    again = soak.Soak(tmp_path / "work", 0, tmp_path)
    assert (again.kills, again.stage, again.seconds) == (1, 1, {"2 1": 1.0}), "the same command goes on"


def test_who_stays_at_work_is_found(soaking: Any) -> None:
    """The process of a script that was killed, which nothing has told."""
    with pytest.raises(FaultError, match=r"kill 0 \(script, stage 2\): still at work: .*time\.sleep"):
        soaking("script")


def test_a_bug_that_was_told_is_found(soaking: Any) -> None:
    with pytest.raises(FaultError, match="told as a bug"):
        soaking("tree", said="echo 'this is a bug in wespeaker-qm, please report it:'")


FRAMES = 'Traceback (most recent call last):\n  File "/x/%s/bin/main.py", line 1, in main\n    call()\n%s\n'


@pytest.mark.parametrize(
    ("said", "is_bug"),
    [
        ("this is a bug in wespeaker-qm, please report it:\n", True),
        (FRAMES % ("wespeaker_qm", "KeyError: 1"), True),
        (FRAMES % ("wespeaker_qm", "KeyboardInterrupt"), False),
        (FRAMES % ("multiprocessing", "KeyError: 1"), False),
        (FRAMES % ("wespeaker_qm", "KeyboardInterrupt") + FRAMES % ("wespeaker_qm", "OSError: 5"), True),
        ("error: exp: found nothing\n", False),
    ],
)
def test_what_counts_as_a_bug(soak: ModuleType, said: str, is_bug: bool) -> None:
    assert soak.is_told_as_bug(said) == is_bug


def test_another_exit_status_than_that_of_the_signal_is_found(soaking: Any) -> None:
    with pytest.raises(FaultError, match=r"exit status [07]$"):
        soaking("int", said="trap 'kill $child; exit 7' INT")


def test_its_help_is_that_of_the_script(soak: ModuleType) -> None:
    told = subprocess.run([ROOT / "tools" / "soak.sh", "--help"], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHON": sys.executable})  # fmt: skip
    assert told.stdout.startswith("usage: tools/soak.sh")
