"""A trace of some steps of a training, operation by operation, for perfetto.dev or chrome://tracing."""

import logging
from typing import Any

import torch

from wespeaker_qm.train.distributed import Processes
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.layout import RunFolder

logger = logging.getLogger(__name__)


class StepTrace:
    """Traces the steps from one number to another, each process into a file of its own.

    Args:
        run: where the files go.
        steps: the first, and the one after the last, counted from 0 over the training; None: no trace.
        processes: this process among those that train.
    """

    def __init__(self, run: RunFolder, steps: tuple[int, int] | None, processes: Processes) -> None:
        self._path = run.trace(processes.rank)
        self._steps = range(0) if steps is None else range(*steps)
        self._device = processes.device
        self._profiler: Any = None

    def begin(self, step: int) -> None:
        """Before a step is made."""
        if step in self._steps and self._profiler is None:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
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
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        profiler.stop()
        with atomic_path(self._path) as temporary:
            profiler.export_chrome_trace(str(temporary))
        logger.info("%s: the trace of these steps; open it at https://ui.perfetto.dev", self._path)
