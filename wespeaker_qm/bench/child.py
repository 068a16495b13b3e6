"""A process of its own for each measurement: none depends on what another left in the allocator."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_child(work: Callable[[], Result]) -> Result:
    """What ``work``, which can be pickled, returns in a fresh process; its exceptions are raised here."""
    # spawn: a forked child would share, and count as its own, pages of this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_choose_default_start_method) as pool:
        return pool.submit(work).result()


def _choose_default_start_method() -> None:
    # Else what the fresh process starts, a loader's workers say, would be spawned too, which no training does.
    multiprocessing.set_start_method(None, force=True)
