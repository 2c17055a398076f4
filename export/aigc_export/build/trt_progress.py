"""Progress of a build, and its cancellation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Progress", "Watch", "make_monitor"]

Progress = Callable[[str, int, int], bool]
"""Called as progress(phase, step from 1, steps); returning False cancels the build."""


class Watch:
    """What the user's callback said.

    An exception must not cross the library's C++ frames: it is kept, the build is cancelled, and the builder raises it
    afterwards. That is how an interrupt from the keyboard ends a build.

    Args:
        progress: the user's callback.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.cancelled = False
        self.stopped: BaseException | None = None
        self.steps: dict[str, int] = {}

    def step(self, phase: str, step: int) -> bool:
        """Whether to go on."""
        if self.progress is None or self.cancelled:
            return not self.cancelled
        try:
            self.cancelled = not self.progress(phase, step + 1, self.steps.get(phase, 1))
        except BaseException as err:  # noqa: BLE001 - raised again by the builder
            self.stopped, self.cancelled = err, True
        return not self.cancelled


def make_monitor(module: Any, watch: Watch) -> Any:
    """An `IProgressMonitor` of that library which tells the watch."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            watch.steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            return watch.step(name, step)

        def phase_finish(self, name: str) -> None:
            watch.steps.pop(name, None)

    return Monitor()
