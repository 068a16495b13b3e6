"""How much memory a step needs beyond what its arguments hold, as the kernel counts it."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from wespeaker_qm.bench.child import in_child
from wespeaker_qm.utils.allocator import return_freed_pages

MIB = 2**20

_PROC = Path("/proc/self")


def peak_in_child(prepare: Callable[[], Callable[[], object]]) -> int | None:
    """The peak of memory during a step, in a fresh process of one thread.

    Args:
        prepare: picklable; makes the step, and is to call into the libraries that the step will use, so that what
            they load does not count. What it leaves in memory does not count either.

    Returns:
        Bytes, to within some hundreds of KiB; None where the kernel has no such counter.
    """
    return in_child(functools.partial(_peak_of, prepare))


def _peak_of(prepare: Callable[[], Callable[[], object]]) -> int | None:
    torch.set_num_threads(1)
    step = prepare()
    return_freed_pages()  # else the step would use them and seem to need nothing
    try:
        (_PROC / "clear_refs").write_text("5")  # the high-water mark falls to what is resident now
        before = status_bytes("VmRSS")
        step()
        return status_bytes("VmHWM") - before
    except OSError:
        return None


def status_bytes(key: str, process: int | str = "self") -> int:
    """A line ``key:   123 kB`` of a process's /proc/<pid>/status.

    Raises:
        OSError: the kernel has no such file.
    """
    lines = (_PROC.parent / str(process) / "status").read_text(encoding="ascii", errors="replace").splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(value)


def private_bytes(process: int | str = "self") -> int:
    """Memory that a process shares with no other: what one more such process takes.

    A forked process counts as resident what it shares with its parent, libraries and data alike.

    Raises:
        OSError: the kernel has no such file.
    """
    lines = (_PROC.parent / str(process) / "smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def dense_cosface_bytes(dim: int, num_classes: int) -> int:
    """What CosFace with ``F.cross_entropy`` needs in float32, computed: it may not fit where the sparse head does.

    At the peak, in the backward of ``F.normalize(prototypes)``, five matrices (C, D) are held: the normalised
    prototypes, the gradient towards them, that of the prototypes and two intermediates. The logits are gone by then.
    """
    return 4 * 5 * num_classes * dim
