"""What goes wrong with a machine rather than with the program: a full disk, no memory, a process that was killed.

Nobody can check for these beforehand, so they come as exceptions from anywhere. :func:`trouble` tells them from bugs.
"""

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from wespeaker_qm.utils.errors import RecipeError, found_at

_WHILE_WRITING = "while writing "
"""Begins a note (``Exception.add_note``) that names the file which an error without a name is of."""

_LESS_MEMORY = (
    "close other programs, or take less at once: fewer processes (run.sh --num_workers, dataloader_args.num_workers), "
    "smaller batches (dataloader_args.batch_size), shorter recordings; or take a machine with more memory"
)
_ANOTHER_PLACE = "name another place"
_REMEDIES = {
    errno.ENOSPC: "free some space, or name a place on another disk; then run the same command again",
    errno.EDQUOT: "free some of your quota, or name a place on another disk; then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or name a place on another disk",
    errno.EROFS: "name a place on a disk that can be written",
    errno.EACCES: "give yourself the right (chmod, chown), or name another place",
    errno.EPERM: "give yourself the right (chmod, chown), or name another place",
    errno.ENOENT: "put it back, or run the stage that makes it (run.sh --help lists the stages)",
    errno.EEXIST: f"move it away, or {_ANOTHER_PLACE}",
    errno.ENOTDIR: f"a file is where a folder should be: move it away, or {_ANOTHER_PLACE}",
    errno.EISDIR: f"a folder is where a file should be: move it away, or {_ANOTHER_PLACE}",
    errno.ELOOP: "links lead in a circle: remove them, or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: _LESS_MEMORY,
    errno.EIO: "the disk or the network is failing: look after it, then run the same command again",
    errno.ESTALE: "the network's disk has changed: mount it again, then run the same command again",
    errno.EPIPE: "what read the output has ended: let it read to the end, or write into a file",
}
_ANY_FILE = "look after this file and its disk, then run the same command again"

_FAULT = "a fault in a compiled library, or in a kernel of torch.compile"
_TRY_ELSEWISE = (
    "run it again with PYTHONFAULTHANDLER=1, which tells where; without compile=true, or with other versions of that "
    "library, it may do"
)
_DEATHS: dict[int, tuple[str, str]] = {
    signal.SIGKILL: ("out of memory?", _LESS_MEMORY),
    signal.SIGTERM: ("somebody ended it", "run the same command again, which goes on where this stood"),
    signal.SIGABRT: ("a library gave up, such as NCCL: see above", "what it says above may help"),
    signal.SIGSEGV: (_FAULT, _TRY_ELSEWISE),
    signal.SIGFPE: (_FAULT, _TRY_ELSEWISE),
    signal.SIGBUS: (
        "a file that became shorter while it was read, or a full /dev/shm",
        "make /dev/shm larger (docker run --shm-size), or look after the disk of the data",
    ),
    signal.SIGILL: ("an instruction that this CPU does not have", "install builds of PyTorch and NumPy for this CPU"),
}
"""Signal -> what it mostly comes of, and what helps."""
_FAULTS = (signal.SIGSEGV, signal.SIGFPE, signal.SIGILL)
_CAPABILITY = "ATEN_CPU_CAPABILITY"

_OF_RUNTIME_ERRORS = {
    "can't allocate memory": _LESS_MEMORY,
    "CUDA out of memory": "set a smaller dataloader_args.batch_size, or end what else uses the GPU",
    "DataLoader worker": f"the system kills processes when memory is short: {_LESS_MEMORY}",
    "unable to mmap": _LESS_MEMORY,
    "shared memory": (
        "make /dev/shm larger (docker run --shm-size), or read in one process (dataloader_args.num_workers=0, "
        "extract --num_workers 0)"
    ),
    "Symlink loop": _REMEDIES[errno.ELOOP],
}
"""Parts of the messages of PyTorch (and of pathlib) for which there is no kind of exception."""
_KILLED = re.compile(r"(?P<who>DataLoader worker \(pid \d+\)) is killed by signal: (?P<name>[^.]+)\.")
_NUMBERS = {signal.strsignal(number): number for number in signal.Signals}


def trouble(error: BaseException) -> str | None:
    """What to tell a user of an error that is not the program's fault, in one line with a remedy; None of a bug.

    >>> trouble(OSError(errno.ELOOP, "Too many levels of symbolic links", "exp/a"))
    'exp/a: Too many levels of symbolic links; links lead in a circle: remove them, or name another place'
    >>> trouble(KeyError("loss")) is None
    True
    """
    chain = list(_chain(error))
    notes = [note for each in chain for note in getattr(each, "__notes__", []) if note.startswith(_WHILE_WRITING)]
    file = notes[0].removeprefix(_WHILE_WRITING) if notes else None
    for each in chain:
        found = _of_one(each, file)
        if found is not None:
            return " ".join(found.split())
    return None


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """In the block ``path`` is written: a full disk has no name in its error, or that of a temporary file."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{_WHILE_WRITING}{path}")
        raise


class ProcessDiedError(Exception):
    """A process that worked for this one has died, and cannot say why itself.

    Args:
        status: its exit status; of a signal, the negative of its number.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a process {ended(status)}")
        self.status = status


def ended(status: int) -> str:
    """How a process ended, in words.

    >>> ended(-9), ended(3)
    ('was killed by SIGKILL (out of memory?)', 'ended with exit status 3')
    """
    if status >= 0:
        return f"ended with exit status {status}"
    cause, _ = _DEATHS.get(-status, ("", ""))
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"was killed by {name}{cause and f' ({cause})'}"


def remedy_of_death(status: int) -> str:
    """What helps where a process ended so; arguments as :class:`ProcessDiedError`."""
    capability = os.environ.get(_CAPABILITY)
    if -status in _FAULTS and capability:
        # Seen of torch 2.14 with avx2 on a CPU that has AVX-512.
        return f"unset {_CAPABILITY} (found {capability}), with which kernels of torch.compile may crash on other CPUs"
    _, remedy = _DEATHS.get(-status, ("", ""))
    return remedy or "see what it has said above, and run the same command again"


UNREADABLE = (RecipeError, OSError, UnicodeEncodeError)
"""What is raised of a file that is damaged, cannot be read, or has a name that a library does not take."""


def told(error: Exception) -> str:
    """What is said of one file of many that is :data:`UNREADABLE`, while the others are gone on with."""
    return str(error) if isinstance(error, RecipeError) else trouble(error) or str(error)


def remedy_of(error: OSError) -> str:
    """What helps against an error of the system."""
    return _REMEDIES.get(error.errno or 0, _ANY_FILE)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: PyTorch hides the reason why a file could not be written."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _of_one(error: BaseException, file: str | None) -> str | None:
    """Of an error, not of what it was raised from; ``file`` was being written."""
    where = f"{file}: " if file is not None else ""
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:80]!r}: a name that is not UTF-8; rename the file or folder"
    if isinstance(error, OSError):
        remedy = remedy_of(error)
        if error.errno == errno.EEXIST and os.path.islink(error.filename or ""):
            # Of a folder that is to be made where a link leads nowhere, the system only says that it exists.
            return f"{error.filename}: {found_at(error.filename)}, or {_ANOTHER_PLACE}"
        is_ours = error.filename is None or ".tmp" in str(error.filename)
        named = where if is_ours and where else f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror or error}; {remedy}"
    if isinstance(error, MemoryError):
        return f"{where}out of memory{f' ({error})' if str(error) else ''}; {_LESS_MEMORY}"
    if isinstance(error, ProcessDiedError):
        return f"{where}{error}; {remedy_of_death(error.status)}"
    if isinstance(error, RuntimeError):
        if (killed := _KILLED.search(str(error))) and (number := _NUMBERS.get(killed["name"])):
            return f"{killed['who']} {ended(-number)}; {remedy_of_death(-number)}"
        for part, remedy in _OF_RUNTIME_ERRORS.items():
            if part in str(error):
                first_line = str(error).partition("\n")[0].rstrip(" .")
                return f"{first_line}; {remedy}"
    return None
