"""Report the progress of a build, and end it from within a callback: by cancellation, signal or error."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aigc_runtime.core.progress import Progress
from aigc_runtime.errors import CancelledError

__all__ = ["Watch", "make_monitor"]


class Watch:
    """Watches a build and ends it where a callback asks for that or fails.

    The library calls back from C++: an exception that Python raises there is lost, and the build goes on. So every
    callback hands what it catches to `keep`; the first is kept, the library is asked to stop at its next step, and
    `check` raises it once the library has returned.

    Args:
        progress: the user's callback.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.cancelled = False
        self.stopped: BaseException | None = None
        self.steps: dict[str, int] = {}

    def keep(self, error: BaseException) -> None:
        """Stop the build for this reason, unless it has one already."""
        if self.stopped is None:
            self.stopped = error
        self.cancelled = True

    def check(self) -> None:
        """Raise the error that was kept.

        Raises:
            BaseException: the first one that was kept.
            CancelledError: the user's callback returned False.
        """
        if self.stopped is not None:
            raise self.stopped
        if self.cancelled:
            raise CancelledError("the build was cancelled", hint="nothing was written")

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep what the body of a callback raises."""
        try:
            yield
        except BaseException as err:  # noqa: BLE001 - raised again by `check`
            self.keep(err)

    def step(self, phase: str, step: int) -> bool:
        """Report a step; returns whether the build goes on."""
        with self.keeping():
            if self.progress is not None and not self.cancelled:
                answer = self.progress(phase, step + 1, self.steps.get(phase, 1))
                self.cancelled = answer is False or self.cancelled
        return not self.cancelled

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what Ctrl-C or SIGTERM raises while this lasts; raise it at the end, before a failure that it led to.

        Python raises KeyboardInterrupt wherever the main thread is, which may be within a callback. Other threads hear
        no signals; a signal that is ignored, or that ends the process at once, stays so.
        """
        try:
            with self._deferred_interrupt():
                yield
        except BaseException:
            self.check()
            raise
        self.check()

    @contextlib.contextmanager
    def _deferred_interrupt(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        found = ((number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM))
        before = {int(number): handler for number, handler in found if callable(handler)}

        def interrupted(number: int, frame: FrameType | None) -> None:
            with self.keeping():
                before[number](number, frame)

        for number in before:
            signal.signal(number, interrupted)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_monitor(module: Any, watch: Watch) -> Any:
    """An `IProgressMonitor` of that library which tells the watch."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            with watch.keeping():
                watch.steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            return watch.step(name, step)

        def phase_finish(self, name: str) -> None:
            with watch.keeping():
                watch.steps.pop(name, None)

    return Monitor()
