"""Freed memory stays with the process.

A step allocates some megabytes and frees them again. glibc gives what is free at the end of its heap back to the system
each time, and takes it anew, page by page: an eighth of a learner's time. Whether it does depends on what happens to
lie at the end of the heap, so one process has the trouble, and another never.
"""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # from malloc.h
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 256 * 2**20
"""Free memory at the end of a heap beyond this goes back."""
MAPPED_BYTES: Final = 32 * 2**20
"""Larger arrays are no part of a heap, and go back as soon as they are freed; the most that glibc takes."""


def keep_memory() -> None:
    """For this process from now on; other systems than glibc's do as they always do."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
