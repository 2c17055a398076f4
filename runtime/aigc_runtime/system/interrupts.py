"""Signals that end a command line: an exception where the program stands, so that it cleans up, and the exit code.

A library may turn that exception into one of its own. So the signal is remembered, and `interrupted_by` tells what a
failure really was. What drops it in silence meets `check_interrupted` at the next stage.

Signals within a second are one: a terminal that closes sends several, and so does who is in a hurry. A later one raises
again, so that what is slow to clean up can be broken off.

The signal is given again a little later where an exception would be lost, or do harm:

- Python drops what is raised in a callback of a weak reference, of which PyTorch's capture has many.
- While an extension module starts nothing is raised, nor while PyTorch is imported, whose start calls Python from
  C++: an exception there can abort the process.
- While PyTorch enters or leaves a context, such as a dispatch mode: broken off between taking a mode and giving it
  back, its C++ finds its stack of modes wrong and aborts the process.
- Within `interrupts_held`: where something is taken that must be given back, or is given back.
"""

from __future__ import annotations

import _thread
import contextlib
import inspect
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from types import FrameType

__all__ = [
    "SAME_SECONDS",
    "Interrupted",
    "check_interrupted",
    "first_interrupt_asks",
    "handled_signals",
    "interrupt_code",
    "interrupted_by",
    "interrupts_held",
    "was_interrupted",
]

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""The last is Windows' Ctrl-Break; a system has some of them."""

_AGAIN_SECONDS = 0.02

_NEAREST_FRAMES = 6
"""As deep as the entering of PyTorch's modes goes, with some to spare."""

SAME_SECONDS = 1.0
"""Signals that come within this time of the first are the same wish."""


@dataclass
class _State:
    """Of the program that handles signals.

    Attributes:
        held: blocks of `interrupts_held` that the main thread is in.
        kept: a signal came within them.
        given: the next signal is one that is given again.
        raised_at: when an exception was last raised for a signal.
        asked_at: when Ctrl-C last asked for the end of a block of `first_interrupt_asks`.
        ended: the exit code stands.
    """

    held: int = 0
    kept: bool = False
    given: bool = False
    raised_at: float = -math.inf
    asked_at: float = -math.inf
    ended: bool = False


_received: list[int] = []
_state = _State()


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""


def _note(number: int, frame: FrameType | None) -> None:
    if _state.ended:
        return
    if number == signal.SIGINT and time.monotonic() - _state.asked_at < SAME_SECONDS:
        return
    if not _received:
        _received.append(number)
    given, _state.given = _state.given, False
    now = time.monotonic()
    if not given and now - _state.raised_at < SAME_SECONDS:
        return
    if _state.held:
        _state.kept = True
        return
    if _is_delicate(frame):
        _give_later()
        return
    _state.raised_at = now
    raise Interrupted


def _is_delicate(frame: FrameType | None) -> bool:
    return _enters_context(frame) or _starts_compiled_code(frame)


def _enters_context(frame: FrameType | None) -> bool:
    """Whether PyTorch enters or leaves a context right here: by a method, or by a generator under `contextlib`."""
    for _ in range(_NEAREST_FRAMES):
        if frame is None:
            return False
        code, package = frame.f_code, str(frame.f_globals.get("__name__")).partition(".")[0]
        switches = code.co_name in ("__enter__", "__exit__")
        if (package == "contextlib" and switches) or (
            package == "torch" and (switches or code.co_flags & inspect.CO_GENERATOR)
        ):
            return True
        frame = frame.f_back
    return False


def _starts_compiled_code(frame: FrameType | None) -> bool:
    """Whether compiled code is starting somewhere below."""
    while frame is not None:
        name, module = frame.f_code.co_name, frame.f_globals.get("__name__")
        if name == "<module>" and module == "torch":
            return True
        if module == ExtensionFileLoader.__module__ and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def _give_later() -> None:
    # Not of `threading`, whose locks the interrupted code may hold.
    _thread.start_new_thread(_give, ())


def _give() -> None:
    time.sleep(_AGAIN_SECONDS)
    main, number = threading.main_thread().ident, _received[0]
    if _state.ended:
        return
    _state.given = True
    if main is None or not hasattr(signal, "pthread_kill"):
        signal.raise_signal(number)
    else:
        signal.pthread_kill(main, number)  # which wakes it where it waits


@contextlib.contextmanager
def handled_signals() -> Iterator[None]:
    """Raise `Interrupted` at every signal that asks to end; one that is ignored (`nohup`) stays ignored.

    For entry points alone: the handlers of a process belong to whoever started it. Once this ends, the exit code
    stands, and the same signals are ignored until the process is gone.
    """
    _received.clear()
    _state.held, _state.kept, _state.given, _state.raised_at, _state.ended = 0, False, False, -math.inf, False
    _state.asked_at = -math.inf
    hook = sys.unraisablehook

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            hook(dropped)
        elif _received:
            _give_later()  # here it would be dropped again

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, _note)
    sys.unraisablehook = again
    try:
        yield
    finally:
        _state.ended = True
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
        sys.unraisablehook = hook


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let no signal break off a block that is short: it is given again a little later.

    For what takes a file, a lock or a process that a `finally` gives back, and for that `finally`: broken off between,
    it would stay for ever. Nothing changes in a process whose signals somebody else handles, and in other threads,
    where none is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
        if not _state.held and _state.kept:
            _state.kept = False
            _give_later()


@contextlib.contextmanager
def first_interrupt_asks() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C within the block only ask for its end; a later one interrupts, as one outside of it does.

    Those within `SAME_SECONDS` of the first are one with it, behind the block as well. Nothing changes in other threads
    than the main one, which alone may say what a signal does, and where Ctrl-C is ignored or ends the process at once.

    Yields:
        Whether it was asked.
    """
    asked_at: float | None = None
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is None:
            asked_at = _state.asked_at = now
        elif callable(before) and now - asked_at >= SAME_SECONDS:
            before(number, frame)

    ours = callable(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked_at is not None
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def check_interrupted() -> None:
    """Raise again, if a signal came and something dropped its exception.

    Raises:
        Interrupted: a signal has been received, and the program that handles it goes on.
    """
    if _received and not _state.ended:
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
    return bool(_received) and not _state.ended


def was_interrupted() -> bool:
    """Whether a signal has been received."""
    return bool(_received)


def interrupt_code(err: BaseException) -> int:
    """The exit code of an interruption: 128 and the number of the first signal, 130 for Ctrl-C.

    Args:
        err: how it reached the caller. Where no program handles signals any more, only an `Interrupted` is from one.
    """
    ours = bool(_received) and (not _state.ended or isinstance(err, Interrupted))
    return 128 + (_received[0] if ours else signal.SIGINT)
