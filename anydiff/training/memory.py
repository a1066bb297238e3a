"""Memory that was freed stays with the process, for the next step."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed"]

# of malloc.h: the free memory that is kept, and the size from which a block is asked of the system
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed() -> None:
    """Let the process keep up to two gigabytes that it has freed, instead of asking for them again.

    Each step frees the arrays of the one before and wants as many again. By default glibc, the C library
    of most Linux systems, gives large blocks back and takes new ones, whose pages the system clears:
    up to a tenth of a training step on a CPU. The process then holds its peak memory until it ends.

    It does nothing with another C library, or where the environment has settings of glibc's own.
    """
    if any(name in os.environ for name in _SETTINGS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    # old versions take no more than 32 MB; with another threshold alone, they would give back even more
    if mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
