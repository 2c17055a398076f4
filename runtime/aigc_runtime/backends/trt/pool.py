"""Lanes for several threads: a run takes a free one, and waits where all are taken."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from aigc_runtime.backends.trt.lane import Lane
from aigc_runtime.core.closing import close_all
from aigc_runtime.errors import EngineError

__all__ = ["MOST_LANES", "LanePool"]

MOST_LANES = 4
"""Runs at a time in one session: each has its own activations in device memory, and a device runs few side by side."""


class LanePool:
    """Makes lanes when they are first needed.

    Args:
        make: a new lane, in the calling thread.
        most: lanes at a time.
    """

    def __init__(self, make: Callable[[], Lane], most: int = MOST_LANES) -> None:
        self._make, self._most = make, most
        self._free: list[Lane] = []
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lane]:
        """A lane for the calling thread alone: the one that was used last, whose buffers and graphs fit best.

        Raises:
            EngineError: the session is closed, or no lane can be made.
        """
        lane = self._take()
        try:
            yield lane
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    def _take(self) -> Lane:
        with self._changed:
            while not self._closed and not self._free and self._count >= self._most:
                self._changed.wait()
            if self._closed:
                raise EngineError("the session is closed", hint="open the bundle again")
            if self._free:
                return self._free.pop()
            lane = self._make()
            self._count += 1
            return lane

    def close(self) -> None:
        """Let no run begin, wait for those that have, and release all lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while len(self._free) < self._count:
                self._changed.wait()
            lanes, self._free, self._count = self._free, [], 0
        close_all([lane.close for lane in lanes])
