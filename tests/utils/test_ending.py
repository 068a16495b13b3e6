"""Signals are requests, and nobody is left at work when those that it worked for are gone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wespeaker_qm.utils import ending
from wespeaker_qm.utils.ending import STOPPING, StopRequest, stop_requests


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_taken_down_and_the_handlers_are_as_they_were_afterwards(number: int) -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    with stop_requests() as request:
        assert request.number is None
        os.kill(os.getpid(), number)
        assert request.number == number
    assert [signal.getsignal(each) for each in STOPPING] == before


def test_who_asks_twice_does_not_want_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(ending.time, "monotonic", lambda: now[0])
    request = StopRequest()
    request.note(signal.SIGINT)
    now[0] += 1.0
    request.note(signal.SIGTERM)  # the same request, from a terminal and passed on
    now[0] += 3.0
    with pytest.raises(KeyboardInterrupt):
        request.note(signal.SIGINT)


def test_in_another_thread_nothing_is_taken_down() -> None:
    found = []

    def work() -> None:
        with stop_requests() as request:
            found.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode(), flush=True)
child.wait()
"""
POOL = """
from wespeaker_qm.utils.parallel import ordered_map
import os, time

def work(item):
    print(os.getpid(), flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    list(ordered_map(work, range(2), 2))
"""
WATCHER = """
import os, time
from wespeaker_qm.utils.ending import end_with
end_with(os.getppid())
print("at work", flush=True)
time.sleep(1000)
"""


def ends(process: int) -> bool:
    """Whether a process that is not our child ends."""
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(FileNotFoundError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":  # nobody waits for it
                return True
        time.sleep(0.1)
    return False


def test_a_process_ends_with_its_parent_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, WATCHER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[0])
        parent.kill()
    assert ends(child)


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    script = f"import time; from wespeaker_qm.utils.ending import end_with; end_with({gone.pid}); time.sleep(1000)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == -signal.SIGTERM


def test_workers_end_with_the_program_that_was_killed(tmp_path: Path) -> None:
    """Those of packing and preparing waited for work for ever."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        workers = [int(program.stdout.readline()) for _ in range(2)]
        program.kill()
    assert all(ends(worker) for worker in workers)
