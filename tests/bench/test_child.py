"""A measurement in a process of its own: its answer, its error, its death."""

import functools
import math
import os
import signal

import pytest

from wespeaker_qm.bench.child import in_child
from wespeaker_qm.utils.trouble import ProcessDiedError, trouble

# What is done there is of Python's own, since a child need not be able to import this file.


def test_what_it_returns_and_raises_comes_here() -> None:
    assert in_child(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="math domain error"):
        in_child(functools.partial(math.sqrt, -1.0))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_the_signal_that_it_dies_by_is_told(number: signal.Signals) -> None:
    with pytest.raises(ProcessDiedError, match=f"a process was killed by {number.name}") as caught:
        in_child(functools.partial(signal.raise_signal, number))
    assert ("memory" in str(trouble(caught.value))) is (number == signal.SIGKILL)


def test_an_exit_without_an_answer_is_told() -> None:
    with pytest.raises(ProcessDiedError, match="a process ended with exit status 3"):
        in_child(functools.partial(os._exit, 3))
