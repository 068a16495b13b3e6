"""How a program is asked to end, and how it notices that those it works for are gone.

::

    signal -> StopRequest, which a training looks at after every step -> state saved -> Stopped -> exit status
    parent killed -> its children send themselves SIGTERM -> likewise
"""

import contextlib
import json
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import write_text

PARENT = "WESPEAKER_QM_PARENT"
"""Environment variable: number of the process that a program ends with."""
COMMAND = "WESPEAKER_QM_COMMAND"
"""Environment variable: the command that a user repeats to go on."""
LAUNCHED = "WESPEAKER_QM_LAUNCHED"
"""Environment variable: set where a launcher tells, after all, why the processes that it started have failed."""

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What schedulers, terminals and Slurm's ``--signal=USR1@120`` send."""

_ONCE_S = 2.0
"""Signals within this time are one request: a terminal sends one to a whole group, whose leader passes it on."""
_GRACE_S = 60.0
"""For saving a state, after which a process that waits for a dead one is killed."""


class Stopped(Exception):  # noqa: N818 (no error: what was asked for has been done)
    """The work has ended at a signal, and can be gone on with.

    Args:
        message: what has been saved, and how to go on.
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class LostProcessError(RecipeError):
    """Another one of the processes that train together has ended before its time; it knows why, not this one."""


def is_told_by_launcher(message: str, *, lost: bool = False, is_final: bool = False) -> bool:
    """Leave the message of an error to the program that started this process, if it asked for that.

    A process that is going to be started once more tells by itself: the launcher hears of the last time only.

    Args:
        message: to be told.
        lost: whether the fault is another process's (:class:`LostProcessError`).
        is_final: whether a process that is started once more would meet the same, as of what is wrong in a
            configuration or in data: then none is.
    """
    number, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    is_last = is_final or number >= most
    if LAUNCHED not in os.environ or "TORCHELASTIC_ERROR_FILE" not in os.environ or not is_last:
        return False
    said = {"message": message, "lost": lost, "is_final": is_final, "extraInfo": {"timestamp": int(time.time())}}
    try:
        write_text(os.environ["TORCHELASTIC_ERROR_FILE"], json.dumps({"message": said}))
    except OSError:  # a full disk may be the very message
        return False
    return True


class StopRequest:
    """Whether a signal has asked this process to end; ``number`` is that signal's."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._noted_at = 0.0

    def note(self, number: int) -> None:
        """Take a signal down.

        Raises:
            KeyboardInterrupt: it is the second request: whoever asks twice does not want to wait.
        """
        if self.number is not None and time.monotonic() - self._noted_at > _ONCE_S:
            raise KeyboardInterrupt
        self.number = number
        self._noted_at = time.monotonic()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Until the end of the block the signals :data:`STOPPING` are taken down, and do nothing else.

    In a thread that is not the main one, where Python handles no signals, they do what they did before.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, lambda found, _: request.note(found)) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with(*processes: int) -> None:
    """From now on, this process is sent SIGTERM when one of ``processes`` ends, and is killed if that does not help.

    Linux only: elsewhere a process that was killed leaves its children at work.
    """
    if hasattr(os, "pidfd_open"):
        threading.Thread(target=_watch, args=(processes,), daemon=True, name="parents").start()


def _watch(processes: tuple[int, ...]) -> None:
    poll = select.poll()
    with contextlib.suppress(ProcessLookupError):  # one that is gone already
        for process in processes:
            poll.register(os.pidfd_open(process), select.POLLIN)  # readable when it has ended
        poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
