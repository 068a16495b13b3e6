"""Work spread over processes, results in order."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from wespeaker_qm.utils.ending import end_with

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for their turn are held in memory, so only a few may be ahead of the consumer.
_IN_FLIGHT_PER_WORKER = 8


def available_cpus() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in the order of ``items`` whatever ``num_workers`` is.

    Args:
        function: a picklable function (module level, or a ``functools.partial`` of one).
        items: picklable arguments; consumed lazily.
        num_workers: processes; with one or less the work is done in this process.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    # spawn: forking a process that already runs threads (progress bar, BLAS) may deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool:
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
