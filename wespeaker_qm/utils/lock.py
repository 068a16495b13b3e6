"""One writer a folder, and no writer under a reader.

A lock is ``flock`` on the file ``.lock`` in the folder, so the system releases it with the process that holds it,
however that ends: a dead one blocks nobody. While a writer holds it, the file says who that is. Locks belong to the
process: it may take one that it holds already, and its children hold none.

Readers make the file only in folders that a stage has written into, and go without where it cannot be made (a folder
that is only to be read): nobody writes there.
"""

import contextlib
import fcntl
import json
import logging
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.ownership import LEDGER
from wespeaker_qm.utils.trouble import writing

LOCK = ".lock"

logger = logging.getLogger(__name__)

# A holder that only looks whether its work is done already is gone within this time.
_PATIENCE_S = 1.0
_POLL_S = 0.1


@dataclass
class _Held:
    """A lock file that this process has open, and how often each kind of lock was taken."""

    descriptor: int
    readers: int = 0
    writers: int = 0
    excludes: bool = True
    """False where the file system has no locks."""


_held: dict[Path, _Held] = {}


def lock_for_writing(folder: Path, task: str = "") -> bool:
    """Become the only writer of ``folder``, which is made, until :func:`unlock` or the end of the process.

    Args:
        folder: e.g. ``exp/mini/qmargin_a1.5``.
        task: what is to be made there, e.g. the key of its done marker. If the holder makes just the same, it is waited
            for; empty: never wait.

    Returns:
        Whether that is so; False on a file system without locks, where only a warning is given.

    Raises:
        RecipeError: another process writes or reads there; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = _open(folder)
    if held is None or not os.access(_key(folder), os.W_OK):
        raise RecipeError(f"{folder}: cannot be written to; choose another folder, or change its permissions")
    if not held.writers:
        _wait_for(folder, held, fcntl.LOCK_EX, task)
    held.writers += 1
    if held.writers == 1:
        try:
            with writing(folder / LOCK):
                _key(folder).write_text(_description(task), encoding="utf-8")
        except OSError:
            unlock(folder, writer=True)
            raise
    return held.excludes


def lock_for_reading(folder: Path) -> bool:
    """Keep writers out of ``folder`` until :func:`unlock` or the end of the process; other readers may come.

    Returns:
        Whether there is a lock to be released.

    Raises:
        RecipeError: another process writes there; the message says which.
    """
    is_ours = any(os.path.exists(folder / name) for name in (LOCK, LEDGER, ".done", "shards/.done"))
    held = _open(folder) if is_ours else None
    if held is None:
        return False
    if not held.writers and not held.readers:
        _wait_for(folder, held, fcntl.LOCK_SH, "")
    held.readers += 1
    return True


def unlock(folder: Path, *, writer: bool) -> None:
    """Release one lock of this process; none is held any more when all that were taken are released."""
    path = _key(folder)
    held = _held.get(path)
    if held is None:
        return
    if writer and held.writers:
        held.writers -= 1
        if not held.writers:
            _forget_task(held)
            if held.readers:
                fcntl.flock(held.descriptor, fcntl.LOCK_SH)
    elif not writer and held.readers:
        held.readers -= 1
    if not held.readers and not held.writers:
        os.close(_held.pop(path).descriptor)


def unlock_all() -> None:
    """Release whatever this process holds."""
    for path in list(_held):
        held = _held[path]
        if held.writers:
            _forget_task(held)
        os.close(_held.pop(path).descriptor)


def _forget_task(held: _Held) -> None:
    # By the descriptor: the folder may be gone, and another process have made it anew and written its own task there.
    with contextlib.suppress(OSError):
        os.ftruncate(held.descriptor, 0)


def _close_in_child() -> None:
    # A copy of the descriptor would keep the lock when the parent is dead.
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _key(folder: Path) -> Path:
    return Path(os.path.realpath(folder)) / LOCK


def _open(folder: Path) -> _Held | None:
    """The lock file, made if need be; None where it can be neither made nor read."""
    path = _key(folder)
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        if path not in _held:
            with contextlib.suppress(OSError):
                _held[path] = _Held(os.open(path, flags | os.O_CLOEXEC, 0o666))
    return _held.get(path)


def _wait_for(folder: Path, held: _Held, kind: int, task: str) -> None:
    """Take the lock, or give up when its holder does not go."""
    deadline = time.monotonic() + _PATIENCE_S
    is_told = False
    while True:
        try:
            fcntl.flock(held.descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(held.descriptor)
        except OSError as error:
            held.excludes = False
            if kind == fcntl.LOCK_EX:
                logger.warning(
                    "%s: this file system has no locks (%s); let one program at a time write there", folder, error
                )
            return
        if task and holder.get("task") == task:
            if not is_told:
                logger.info("%s: waiting for %s, which makes the same", folder, _who(holder))
                is_told = True
        elif time.monotonic() > deadline:
            busy = _busy(holder, held.descriptor)
            if held.readers:  # whose lock the system has released for what was tried
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(held.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                os.close(_held.pop(_key(folder)).descriptor)
            raise RecipeError(f"{folder}: {busy}; nothing has been touched here: wait for it, or end it")
        time.sleep(_POLL_S)


def _description(task: str) -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps(
        {"pid": os.getpid(), "host": platform.node(), "started": started, "command": command, "task": task}
    )


def _holder(descriptor: int) -> dict[str, object]:
    """What the writer that holds the lock says of itself; empty of readers, and of one that has only just come."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return {}  # readers hold it; what the file says is of a writer that was killed
    except OSError:
        pass
    try:
        holder = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and holder.keys() >= {"pid", "host", "started", "command"} else {}


def _who(holder: dict[str, object]) -> str:
    return (
        f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('started')}: {holder.get('command')}"
    )


def _busy(holder: dict[str, object], descriptor: int) -> str:
    if holder:
        return f"in use by {_who(holder)}"
    pids = _pids_here(descriptor)
    if pids:
        return f"in use by process {', '.join(pids)} on this host, which reads there (training or extraction)"
    return "in use by another process, perhaps on another host"


def _pids_here(descriptor: int) -> list[str]:
    """Processes of this host that hold the lock, of which Linux has a line each.

    For example ``1: FLOCK ADVISORY READ 4711 08:01:1234 0 EOF``: process 4711 reads, of device 08:01 file 1234.
    """
    inode = str(os.fstat(descriptor).st_ino)
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    rows = [line.split() for line in lines if " FLOCK " in line and "->" not in line]
    return [row[4] for row in rows if row[5].rpartition(":")[2] == inode]
