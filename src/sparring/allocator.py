"""The C library's memory, for a process that is ours: the command line, its workers, benchmarks."""

from __future__ import annotations

import contextlib
import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""The options of `mallopt`, in glibc's malloc.h."""


def keep_freed() -> None:
    """Have glibc keep what is freed (elsewhere nothing happens).

    Otherwise every pass of a convolutional network hands megabytes back to the system and asks for them again, page by
    page: a fifth of the time of a training step, or nothing, as small allocations happen to lie.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in ((TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26), (MMAP_THRESHOLD, 2**25)):
            mallopt(option, size)
