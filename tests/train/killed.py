"""wespeaker-qm in a process that kills itself when it is told to: ``killed.py FOLDER RANK:EVENT,... SUBCOMMAND``.

Of several processes that are started again and again, the one of the first rank dies at its event, the next time that
of the second, and so on. ``FOLDER`` holds a file for each that has died.
"""

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from wespeaker_qm.bin.main import main
from wespeaker_qm.train.loop import Trainer


def kill_at(event: int, note: Path | None = None) -> None:
    """Let this process be killed just before a file is flushed, renamed or removed, or a step is made: the event-th."""
    counter, lock = itertools.count(1), threading.Lock()

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                if next(counter) == event:
                    if note is not None:
                        note.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        setattr(owner, name, call)

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Trainer, "_step")):
        counted(owner, name)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    deaths = [tuple(map(int, death.split(":"))) for death in sys.argv[2].split(",") if death]
    number = len(list(folder.iterdir()))
    if number < len(deaths) and deaths[number][0] == int(os.environ["RANK"]):
        kill_at(deaths[number][1], folder / str(number))
    sys.exit(main(sys.argv[3:]))
