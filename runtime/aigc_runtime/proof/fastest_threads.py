"""How many threads an engine runs fastest with, by measurement: more are not always faster.

Processors that share a core, or cores of two kinds, hold each other up, and a small model waits longer for its threads
than they work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from aigc_runtime.backends.threads import available_threads
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.opening import open_program
from aigc_runtime.pipelines import kind_of, make_pipeline

__all__ = ["counts_to_try", "fewest_fast", "time_threads"]

SECONDS, LEAST_RUNS, MOST_RUNS = 0.5, 3, 50
"""For each number of threads: how long it is timed, and the fewest and most steps."""

WARMUP = 2
AS_FAST = 1.03
"""A number of threads whose step takes no longer than so many times the shortest one is as fast."""


def counts_to_try(most: int) -> tuple[int, ...]:
    """All, the half of them, and so on, down to one.

    >>> counts_to_try(12)
    (12, 6, 3, 1)
    """
    found = [most]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return tuple(found)


def time_threads(bundle: Bundle, *, low_memory: bool = False) -> dict[int, float]:
    """Time a step with each of some numbers of threads, each with engines of its own.

    Args:
        bundle: whose engines run on processors; else nothing is timed.
        low_memory: see `open_program`.

    Returns:
        Threads -> seconds of a step, the median; empty where threads mean nothing.

    Raises:
        AigcError: an engine does not load or run.
    """
    if not any(engine.runs_on_cpu for engine in bundle.manifest.engines.values()):
        return {}
    return {count: _step_seconds(bundle, count, low_memory=low_memory) for count in counts_to_try(available_threads())}


def fewest_fast(seconds: Mapping[int, float]) -> int | None:
    """The fewest threads that are as fast as any; None where nothing was timed.

    >>> fewest_fast({8: 1.0, 4: 1.02, 2: 1.7, 1: 3.0})
    4
    """
    least = min(seconds.values(), default=0.0)
    return min((count for count, taken in seconds.items() if taken <= AS_FAST * least), default=None)


def _step_seconds(bundle: Bundle, threads: int, *, low_memory: bool) -> float:
    pipeline = bundle.manifest.pipeline
    with open_program(bundle, threads=threads, low_memory=low_memory) as program:
        step = kind_of(pipeline.settings).step(make_pipeline(program, pipeline.settings, pipeline.engines))
        for _ in range(WARMUP):
            step()
        taken = list[float]()
        while len(taken) < LEAST_RUNS or (sum(taken) < SECONDS and len(taken) < MOST_RUNS):
            started = time.perf_counter()
            step()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
