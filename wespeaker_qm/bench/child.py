"""A process of its own for each measurement: none depends on what another left in the allocator."""

import multiprocessing
from collections.abc import Callable
from typing import TypeVar

from wespeaker_qm.utils.parallel import process_pool

Result = TypeVar("Result")


def in_child(work: Callable[[], Result]) -> Result:
    """What ``work``, which can be pickled, returns in a fresh process; its exceptions are raised here.

    Forked, it would share pages of this process, and count them as its own.

    Raises:
        ProcessDiedError: it died.
    """
    with process_pool(1, _choose_default_start_method) as pool:
        return pool.submit(work).result()


def _choose_default_start_method() -> None:
    # Else what the fresh process starts, a loader's workers say, would be spawned too, which no training does.
    multiprocessing.set_start_method(None, force=True)
