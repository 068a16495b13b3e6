"""A process of its own for each measurement: none depends on what another left in the allocator."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_child(work: Callable[[], Result]) -> Result:
    """What ``work``, which can be pickled, returns in a fresh process; its exceptions are raised here."""
    # spawn: a forked child would share, and count as its own, pages of this process.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()
