"""How the process gives memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def give_back_freed() -> None:
    """Have glibc give freed memory back; with another C library this does nothing.

    By itself it does so at the end of its heap only, and bodies are of many sizes and freed in no order: the heap grows
    from batch to batch. Measured after 1,000 batches: 324 MB, and 248 MB when asked every 50, for the same CPU time.
    Never to keep large blocks (M_MMAP_THRESHOLD) makes 209 MB, and costs a quarter of the CPU that sending takes.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
