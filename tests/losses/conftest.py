"""Kernels run on a GPU if there is one, and otherwise on the CPU, in Triton's interpreter: the same tests for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Operations(TorchDispatchMode):
    """A context that notes each operation but views and allocations, and each kernel started."""

    _free = ("empty", "new_empty", "empty_like", "view", "t", "transpose", "unsqueeze", "slice", "select", "detach",
             "unbind", "expand", "alias", "_unsafe_view", "permute", "squeeze", "split", "unflatten")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name not in self._free:
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


@contextmanager
def _noted() -> Iterator[list[str]]:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    operations = Operations()
    with pytest.MonkeyPatch.context() as patch:
        for kind in (InterpretedFunction, JITFunction):
            run = kind.run

            def noted(self: Any, *args: Any, run: Any = run, **kwargs: Any) -> Any:
                operations.names.append(self.fn.__name__)
                with _disable_current_modes():  # the interpreter computes with tensors, too
                    return run(self, *args, **kwargs)

            patch.setattr(kind, "run", noted)
        with operations:
            yield operations.names


@pytest.fixture
def noted() -> Any:
    """A context manager that gives the names of the operations and kernels started in it."""
    return _noted
