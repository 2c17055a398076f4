"""Signals while training: the first ends the run after its step, with the state saved; a later one ends it at once.

At once means as in every other verb (`aigc_runtime.system.interrupts`), with a word on what is there.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from aigc_models.training.loop import what_is_left
from aigc_runtime.system.interrupts import SAME_SECONDS, Interrupted, check_interrupted

__all__ = ["SignalStop"]

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class SignalStop:
    """A `loop.Stop` that listens to Ctrl-C, SIGTERM and a terminal that goes away.

    A signal that the process ignores stays ignored, as under nohup. The handlers that were there come back at the end.

    Args:
        output: of the training, to say what is there.
    """

    def __init__(self, output: Path) -> None:
        self.signum: int | None = None
        self._output = output
        self._listening = False
        self._stopped_at = -math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalStop:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if isinstance(error, KeyboardInterrupt):
            error.add_note(what_is_left(self._output))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While in it, the first signal is kept for the end of the step; one that was dropped before ends here."""
        check_interrupted()
        self._listening = True
        try:
            yield
        finally:
            self._listening = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._listening or self.signum is not None:
            if time.monotonic() - self._stopped_at < SAME_SECONDS:
                return
            before = self._before[signum]
            if not callable(before):
                raise Interrupted
            before(signum, frame)  # raises, now or a little later
            return
        self.signum, self._stopped_at = signum, time.monotonic()
        _say(f"{signal.Signals(signum).name}: ending after this step and saving; once more ends at once")


def _say(text: str) -> None:
    """Write a line past Python's buffers: a handler may have come in the middle of a write to them."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"\r{text}\n".encode())
