"""A trace of some steps of a training, operation by operation, for perfetto.dev or chrome://tracing."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.layout import RunFolder

logger = logging.getLogger(__name__)

_CHATTER = re.compile(rb"(USDT|STAGE):\d{4}-|ERROR:.*\bgpuGetDeviceCount failed")
"""Begins a line of PyTorch's profiler that tells a user nothing: how far it is, and that there is no GPU."""


class StepTrace:
    """Traces the steps from one number to another, each process into a file of its own.

    A trace that cannot be written is told, and nothing else: the training goes on, or ends as it would have ended.

    Args:
        run: where the files go.
        steps: the first, and the one after the last, counted from 0 over the training; None: no trace.
        processes: this process among those that train.
    """

    def __init__(self, run: RunFolder, steps: tuple[int, int] | None, processes: Processes) -> None:
        self._run = run
        self._steps = range(0) if steps is None else range(*steps)
        self._processes = processes
        self._profiler: Any = None

    def begin(self, step: int) -> None:
        """Before a step is made."""
        if step in self._steps and self._profiler is None:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._processes.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            with _without_chatter():
                self._profiler.start()

    def end(self, num_steps: int) -> None:
        """After a step is made, ``num_steps`` in all."""
        if self._profiler is not None and num_steps not in self._steps:
            self.close()

    def close(self) -> None:
        """Write what has been traced, if anything has."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        device, path = self._processes.device, self._run.trace(self._processes.rank)
        try:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            with _without_chatter():
                profiler.stop()
                with atomic_path(path) as temporary:
                    profiler.export_chrome_trace(str(temporary))
        except Exception as error:
            logger.error("error: %s: the trace of these steps cannot be written: %s", path, error)
            return
        world_size = self._processes.world_size
        if world_size == 1:
            logger.info("%s: the trace of these steps; open it at https://ui.perfetto.dev", path)
        else:
            logger.info(
                "%s: the traces of these steps, %s to %s, one of each process; open them at https://ui.perfetto.dev",
                path.parent,
                self._run.trace(0).name,
                self._run.trace(world_size - 1).name,
            )


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """In the block standard error is held back; what the profiler's library says without need is left out of it.

    It writes past Python, and reads by which variable it might be silenced before it could be set here.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                held.seek(0)
                for line in held:
                    if not _CHATTER.match(line):
                        os.write(2, line)
    finally:
        os.close(kept)
