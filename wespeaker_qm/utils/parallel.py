"""Work spread over processes, results in order."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from wespeaker_qm.utils.ending import end_with
from wespeaker_qm.utils.trouble import ProcessDiedError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for their turn are held in memory, so only a few may be ahead of the consumer.
_IN_FLIGHT_PER_WORKER = 8


def available_cpus() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def process_pool(num_workers: int, initializer: Callable[..., object], *args: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, each of which calls ``initializer(*args)`` first; they end with the block.

    Raises:
        ProcessDiedError: one of them died.
    """
    # spawn: forking a process that already runs threads (progress bar, BLAS) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=initializer, initargs=args)
    processes = pool._processes  # which it forgets at its end
    try:
        with pool:
            yield pool
    except BrokenProcessPool as error:
        if error.__cause__ is not None:  # none of them died: an answer could not be read
            raise
        statuses = [process.exitcode for process in processes.values()]
        own = [status for status in statuses if status not in (None, 0, -signal.SIGTERM)]
        raise ProcessDiedError(own[0] if own else -signal.SIGTERM) from error  # by which the pool ends the others


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in the order of ``items`` whatever ``num_workers`` is.

    Args:
        function: a picklable function (module level, or a ``functools.partial`` of one).
        items: picklable arguments; consumed lazily.
        num_workers: processes; with one or less the work is done in this process.

    Raises:
        ProcessDiedError: one of the processes died.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    with process_pool(num_workers, end_with, os.getpid()) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > _IN_FLIGHT_PER_WORKER * num_workers:
                    yield pending.popleft().result()
            while len(pending) > 1:
                yield pending.popleft().result()
            last = [future.result() for future in pending]
        finally:
            for future in pending:
                future.cancel()
    # Only now: who takes as many results as there are items never comes back for the end, and the processes would be
    # ended where Python removes this generator and Ctrl-C is ignored.
    yield from last
