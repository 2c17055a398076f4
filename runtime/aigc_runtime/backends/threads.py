"""How many threads an engine may have."""

from __future__ import annotations

import os

from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown

__all__ = ["MAX_THREADS", "available_threads", "check_threads"]

MAX_THREADS = 1024
"""More than any machine gains from: each thread takes memory of its own."""


def available_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int | None) -> int | None:
    """The number of threads as a Python integer, or None.

    Raises:
        InputError: below 1, above `MAX_THREADS`, or not an integer.
    """
    if threads is None:
        return None
    count = as_integer(threads)
    if count is None or not 1 <= count <= MAX_THREADS:
        raise InputError(f"threads is {shown(threads)}", hint=f"must be an integer from 1 to {MAX_THREADS}")
    return count
