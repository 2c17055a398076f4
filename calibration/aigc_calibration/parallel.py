"""Independent work on a few processors: numpy computes outside of Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from aigc_runtime.backends.threads import available_threads

__all__ = ["in_threads", "products_in_one_thread"]

MAX_AT_ONCE = 4
"""Items in work: rounding a weight takes several times its size, which many processors would take of many weights."""

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """The results of `work` for every item, in their order; the same whatever the number of threads.

    What the first item to fail raises is raised, and what has not begun by then is left.

    Args:
        work: called in several threads at once.
        items: what it is called with.
        threads: at most so many, and `MAX_AT_ONCE`; None takes the processors that this process may use.
    """
    with products_in_one_thread(), ThreadPoolExecutor(min(threads or available_threads(), MAX_AT_ONCE)) as pool:
        return list(pool.map(work, items))


def products_in_one_thread() -> AbstractContextManager[object]:
    """Keep numpy's and scipy's matrix products to the thread that asks for them.

    The threads of their libraries wait for processors that are taken, and spin: 3.5 times the processors' time of GPTQ.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
