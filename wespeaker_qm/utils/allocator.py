"""What glibc's allocator does with freed pages: work in large temporary arrays, and benchmarks, must decide it."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_pages() -> bool:
    """Let this process keep the pages that it frees, from here on.

    By default a large block is mapped anew each time, and the kernel clears its pages one by one as they are touched:
    a head that holds a matrix of logits then spends most of its time on page faults, at each step again.

    Returns:
        Whether it could be done: not without glibc.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, -1))


def return_freed_pages() -> None:
    """Give freed pages that are still resident back to the kernel; nothing happens without glibc."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
