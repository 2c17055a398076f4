"""Signals that end a command line: an exception where the program stands, so that it cleans up, and the exit code.

A library may turn that exception into one of its own (an extension module whose import is interrupted raises
ImportError). So the signal is remembered, and `interrupted_by` tells what a failure really was. Python itself drops an
exception that is raised in a callback of its garbage collector, of which PyTorch's capture has many: then the signal is
given again. What drops it in silence all the same meets `check_interrupted` at the next stage.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Interrupted", "check_interrupted", "handled_signals", "interrupt_code", "interrupted_by"]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""The last is Windows' Ctrl-Break; a system has some of them."""

_AGAIN_SECONDS = 0.01

_received: list[int] = []


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""


def _note(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    raise Interrupted


def _give_again() -> None:
    main = threading.main_thread().ident
    if main is None or not hasattr(signal, "pthread_kill"):
        signal.raise_signal(_received[0])
    else:
        signal.pthread_kill(main, _received[0])  # which wakes it where it waits


@contextlib.contextmanager
def handled_signals() -> Iterator[None]:
    """Raise `Interrupted` at every signal that asks to end; one that is ignored (`nohup`) stays ignored.

    For entry points alone: the handlers of a process belong to whoever started it. Once this ends, the exit code
    stands, and the same signals are ignored until the process is gone.
    """
    _received.clear()
    hook = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            hook(dropped)
        elif _received:
            # By another thread, a little later: here it would be dropped again.
            threading.Timer(_AGAIN_SECONDS, _give_again).start()

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _note)
    sys.unraisablehook = again
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
        sys.unraisablehook = hook


def check_interrupted() -> None:
    """Raise again, if a signal came and something dropped its exception.

    Raises:
        Interrupted: a signal has been received.
    """
    if _received:
        raise Interrupted


def interrupted_by(err: BaseException) -> bool:
    """Whether an exception is an interruption, or what a library made of one."""
    seen: set[int] = set()
    cause: BaseException | None = err
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return bool(_received)


def interrupt_code() -> int:
    """The exit code of an interruption: 128 and the number of the first signal, 130 for Ctrl-C."""
    return 128 + (_received[0] if _received else signal.SIGINT)
