"""One process or many: the same code under ``torchrun`` (NCCL on GPUs, gloo on CPUs) and without it.

Processes that train together must do the same: what depends on a disk, a machine or chance is decided by the first
(:meth:`Processes.first_decides`), checked on all (:meth:`Processes.agree`), or fails on all
(:meth:`Processes.together`). A process that raised alone would leave the others waiting for it.
"""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from wespeaker_qm.network.device import choose_device
from wespeaker_qm.utils.ending import LostProcessError, Stopped
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.files import temporary_path, write_text

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another one whose connection is not broken: a machine without power or network, a disk
that does not answer. Longer than what the first process does while the others wait: the held-out check, and comparing
tars that were copied."""

_SECONDS_TO_SEE_A_FILE = 5.0
"""Longer than a shared file system takes to show a new file to another machine."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and the progress bar."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum ``tensor`` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def take_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make ``tensors`` those of the first process, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list[Any]:
        """The plain values of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def largest(self, values: Mapping[str, float]) -> dict[str, float]:
        """Of each named number the largest of all processes; of their names, those that any of them has."""
        largest: dict[str, float] = {}
        for held in self.gather(dict(values)):
            for name, value in held.items():
                largest[name] = max(value, largest.get(name, value))
        return largest

    def together(self, work: Callable[[], Result]) -> Result:
        """Do ``work``, which must not communicate, on every process; where it fails on one, it fails on all.

        Raises:
            RecipeError: so it did on another process, whose message this is.
            LostProcessError: it failed on another process otherwise: nothing is wrong with what was asked for.
            Exception: what ``work`` raised here.
        """
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        is_wrong = isinstance(error, RecipeError) and not isinstance(error, LostProcessError)
        failures = self.gather(None if error is None else (str(error), is_wrong))
        if error is not None:
            raise error
        for rank, failure in enumerate(failures):
            if failure is not None:
                message, is_wrong = failure
                raise (RecipeError if is_wrong else LostProcessError)(f"process {rank}: {message}")
        return result

    def first_decides(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` on the first process alone; its result is that of all.

        Raises:
            RecipeError: it failed there.
        """
        result = self.together(lambda: work() if self.is_first else None)
        if self.world_size > 1:
            values = [result]
            dist.broadcast_object_list(values, src=0)
            result = values[0]
        return result  # type: ignore[return-value]

    def agree(self, values: Mapping[str, Any], what: str) -> None:
        """Check that all processes hold the same named values.

        Raises:
            RecipeError: on all of them; the first process that differs is named, and what differs.
        """
        held = self.gather((socket.gethostname(), dict(values)))
        host, expected = held[0]
        for rank, (other_host, found) in enumerate(held):
            names = [name for name in expected | found if expected.get(name) != found.get(name)]
            if names:
                shown = "; ".join(f"{name}: {expected.get(name)} there, {found.get(name)} here" for name in names[:5])
                raise RecipeError(
                    f"{what} differs between process 0 on {host} (there) and process {rank} on {other_host} (here): "
                    f"{shown}. All processes must read the same files: start them with the same command, on a disk "
                    "that all machines share"
                )

    def check_shared(self, folder: Path) -> None:
        """Check that ``folder`` is the same for all processes: that they see a file which the first one makes there.

        Raises:
            RecipeError: on all of them; the first process that does not see it is named.
        """
        if self.world_size == 1:
            return
        name = self.first_decides(lambda: temporary_path(folder / "shared").name)
        try:
            self.together(lambda: write_text(folder / name, "") if self.is_first else None)
            seen = self.gather((socket.gethostname(), _appears(folder / name)))
        finally:
            if self.is_first:
                (folder / name).unlink(missing_ok=True)
        for rank, (host, is_seen) in enumerate(seen):
            if not is_seen:
                raise RecipeError(
                    f"--exp_dir {folder}: process {rank} on {host} does not see what process 0 on {seen[0][0]} writes "
                    "there, expected one folder on a disk that all machines share; name such a folder"
                )


ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))
"""A process that trains by itself, on the CPU."""


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes into sight in a moment."""
    give_up = time.monotonic() + _SECONDS_TO_SEE_A_FILE
    while not path.is_file():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def joined_processes(device_name: str | Callable[[], str]) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, if it did, and leave them at the end.

    Args:
        device_name: ``device`` of the configuration, or a function that finds it. The processes join first: if it
            raises on one of them, they all raise.

    Raises:
        RecipeError: as :func:`choose_device`, on all processes.
        LostProcessError: another process has ended before its time, or does nothing for longer than :data:`TIMEOUT`.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        if world_size > 1:  # plain values go over gloo, also where tensors go over NCCL
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)
            _tell_of_restart(rank)
        joined = Processes(rank=rank, world_size=world_size, device=torch.device("cpu"))
        device = joined.together(
            lambda: choose_device(device_name if isinstance(device_name, str) else device_name(), local_rank)
        )
        joined.agree({"device": device.type}, "the device")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        processes = Processes(rank=rank, world_size=world_size, device=device)
        processes.sum(torch.zeros(1, device=device))  # NCCL connects now, and not within the first step
        yield processes
        if world_size > 1:
            dist.barrier()  # a process that leaves while another still sends to it can be aborted by gloo
    except Stopped:  # on all of them
        if world_size > 1:
            dist.barrier()
        raise
    except RuntimeError as error:
        if world_size == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        raise LostProcessError(
            f"process {rank} of {world_size} on {socket.gethostname()} has lost another one, which ended too early or "
            f"did nothing for {TIMEOUT.total_seconds() / 60:g} minutes: see its message; the same command goes on from "
            f"the last state that was saved ({str(error).partition('. ')[0]})"
        ) from error
    finally:
        if world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


_LOST = re.compile("Connection|connection|[Tt]imed out|Broken pipe")
"""In what gloo says, whose errors have no kind of their own."""


def _tell_of_restart(rank: int) -> None:
    """Under ``run.sh --max_restarts``."""
    number, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if rank == 0 and number != "0":
        logger.warning("all processes are started again (%s of %s times), because one of them had ended", number, most)
