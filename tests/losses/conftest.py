"""Kernels run on a GPU if there is one, and otherwise on the CPU, in Triton's interpreter: the same tests for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from wespeaker_qm.bench.train import operations_noted


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _noted() -> Iterator[list[str]]:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    with pytest.MonkeyPatch.context() as patch, operations_noted() as names:
        for kind in (InterpretedFunction, JITFunction):
            run = kind.run

            def noted(self: Any, *args: Any, run: Any = run, **kwargs: Any) -> Any:
                names.append(self.fn.__name__)
                with _disable_current_modes():  # the interpreter computes with tensors, too
                    return run(self, *args, **kwargs)

            patch.setattr(kind, "run", noted)
        yield names


@pytest.fixture
def noted() -> Any:
    """A context manager that gives the names of the operations and kernels started in it."""
    return _noted
