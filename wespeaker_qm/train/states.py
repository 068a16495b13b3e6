"""States of a training as files: written beside the training, the newest two kept, the newest sound one read.

::

    exp/<corpus>/<run>/resume/step_<updates>.pt    all that going on needs, with a checksum beside it

A state is copied to the host while the training waits, and becomes a file behind its back. Whatever moment a process is
killed at, the state before the one that is being written is whole.
"""

import copy
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from wespeaker_qm.network import checkpoint
from wespeaker_qm.train.state_check import refuse_other_types
from wespeaker_qm.utils.checksums import remove_checked
from wespeaker_qm.utils.errors import RecipeError, told_beside
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.remedies import mended

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""What ``Trainer.state`` makes."""

_KEPT = 2


def state_paths(run: RunFolder) -> list[Path]:
    """The files of states in a run's folder, the newest first; those of earlier versions, which had one, come last."""
    steps = {path: path.stem.partition("_")[2] for path in run.states.glob("step_*.pt")}
    numbered = [path for path, step in steps.items() if step.isdecimal() and path == run.state(int(step))]
    newest_first = sorted(numbered, key=lambda path: int(steps[path]), reverse=True)
    return newest_first + [path for path in run.earlier_states if path.is_file()]


def read_state(path: Path) -> State:
    """Read a state; its tensors stay in the file until they are used.

    Raises:
        RecipeError: it is missing, damaged, no state of a training (:func:`refuse_other_types`), or not finite.
    """
    state: State = checkpoint.load(path, mapped=True)
    refuse_other_types(state, path, mended(path))
    if path.match(f"{RunFolder('.').states}/step_*.pt") and path.stem != f"step_{state.get('step')}":
        raise RecipeError(
            f"{path}: found the state after {state.get('step')} updates, expected that of its name: another "
            f"file in its place; {mended(path)}"
        )
    return state


def newest_state(run: RunFolder) -> Path:
    """The newest state of a run that has one; a damaged one is told, and the one before it is taken.

    Raises:
        RecipeError: none of them can be read; of the newest.
    """
    errors: list[RecipeError] = []
    for path in state_paths(run):
        try:
            read_state(path)
        except RecipeError as error:
            errors.append(error)
        else:
            for damaged in errors:
                logger.warning("%s. The training goes on from the state before it, %s", damaged, path)
            return path
    raise errors[0]


class StateWriter:
    """Writes states, one at a time, while the training goes on.

    Args:
        run: where they go.
        before: the state that the training went on from, which is kept until there are two newer ones.
    """

    def __init__(self, run: RunFolder, before: Path | None = None) -> None:
        self.waited_s = 0.0
        """Seconds for which the training has waited for this."""
        self._run = run
        self._kept = [] if before is None else [before]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._pending: Future[None] | None = None

    def write(self, state: State, *, epoch: int | None = None, is_last: bool = False) -> None:
        """Copy a state and begin to write it.

        Args:
            state: with its ``step``. May change as soon as this returns.
            epoch: that has just ended and whose model is to be saved; the model is there before the state says so.
            is_last: keep no other state beside it.

        Raises:
            RecipeError: the state before this one was not finite.
            OSError: it could not be written.
        """
        started = time.monotonic()
        self._finish()
        own = host_copy(state)
        self._pending = self._thread.submit(self._write, own, epoch, 1 if is_last else _KEPT)
        self.waited_s += time.monotonic() - started

    def close(self) -> None:
        """Wait until all is written; errors as :meth:`write`."""
        started = time.monotonic()
        try:
            self._finish()
        finally:
            self._thread.shutdown()
            self.waited_s += time.monotonic() - started

    def __enter__(self) -> "StateWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with told_beside(error):
            self.close()

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, state: State, epoch: int | None, num_kept: int) -> None:
        path = self._run.state(state["step"])
        checkpoint.refuse_not_finite(
            {name: state[name] for name in ("model", "optimizer")},
            f"step {state['step']}",
            "this state was not saved; train with a lower scheduler_args.initial_lr, or enable_amp=false, into another "
            "--exp_dir",
        )
        if epoch is not None:
            checkpoint.save(state["model"], self._run.model(epoch))
        # After the model: a state that says "epoch done" must find that epoch's model beside it.
        checkpoint.save(state, path)
        self._kept = [path, *(kept for kept in self._kept if kept != path)][:num_kept]
        # Whatever else is there is older, or was damaged and passed over.
        for other in state_paths(self._run):
            if other not in self._kept:
                remove_checked(other)


def host_copy(value: Any) -> Any:
    """The same nested value with copies of its tensors on the CPU; of ``OrderedDict``, its attributes, too."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update((name, host_copy(each)) for name, each in value.items())
        return copied
    if isinstance(value, list):
        return [host_copy(each) for each in value]
    return value
