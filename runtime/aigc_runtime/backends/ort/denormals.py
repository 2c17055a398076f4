"""Arithmetic that takes numbers below 1e-38 for zero inside an engine, and nowhere else.

Some processors are many times slower on denormal numbers, so engines flush them to zero. The switch is a register of
each thread. ONNX Runtime sets it in the threads of its own pool, which is its business; but also in the thread that
makes the process's first session, where it stays, and from which threads started later inherit it
(`session.set_denormal_as_zero`: 1 turns flushing on there, 0 turns off what the caller had turned on). Here:

1. Sessions are made in a thread of their own, which ends (`isolated`).
2. The caller's thread flushes while the engine runs in it, and gets its register back (`flushed`). <fenv.h> of C can do
   that on x86-64 Linux; `CAN_FLUSH` says whether it works here. Where it does not, no thread of the engine flushes:
   results must not depend on which thread computed them.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["CAN_FLUSH", "flushed", "isolated"]

T = TypeVar("T")

_Environment = ctypes.c_uint32 * 8
"""`fenv_t` on x86-64 Linux, in glibc and in musl: the state of the x87 unit, then MXCSR."""
_MXCSR = 7
_FLUSH = 0x8040
"""Bits of MXCSR: flush-to-zero, for results, and denormals-are-zero, for operands."""


def _fenv() -> tuple[Any, Any] | None:
    """`fegetenv` and `fesetenv`, where the layout above is theirs."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return None
    try:
        # PyDLL keeps Python's lock: to give it up and take it again would cost more than the call.
        library = ctypes.PyDLL(None)
        return library.fegetenv, library.fesetenv
    except (OSError, AttributeError):
        return None


def _works(fenv: tuple[Any, Any] | None) -> bool:
    """Whether the switch does what it should in both positions, by arithmetic."""
    if fenv is None:
        return False
    get, put = fenv
    before = _Environment()
    if get(before) != 0:
        return False
    (denormal,) = struct.unpack("<d", (2**40).to_bytes(8, "little"))  # no arithmetic, which may be flushed already
    products: list[float] = []
    for register in (before[_MXCSR] | _FLUSH, before[_MXCSR] & ~_FLUSH):
        put(_Environment(*before[:_MXCSR], register))
        products.append(denormal * 1.5)
    put(before)
    return products[0] == 0.0 < products[1]


_FENV = _fenv()

CAN_FLUSH = _works(_FENV)
"""Whether this thread's arithmetic can be switched and switched back here: tried when this module is imported."""


class flushed:  # noqa: N801 - used as a function
    """Flush denormal numbers in this thread inside a `with` block; changes nothing where `CAN_FLUSH` is false."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        """Switch it on, and remember what was."""
        if CAN_FLUSH and _FENV is not None:
            get, put = _FENV
            self._before = environment = _Environment()
            get(environment)
            register = environment[_MXCSR]
            environment[_MXCSR] = register | _FLUSH
            put(environment)
            environment[_MXCSR] = register

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Put back what was."""
        if CAN_FLUSH and _FENV is not None:
            _FENV[1](self._before)


def isolated(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, so that what it does to its thread's registers ends with it.

    Raises:
        BaseException: whatever the function raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as err:  # noqa: BLE001 - raised again, where it belongs
            errors.append(err)

    thread = threading.Thread(target=call, name="aigc-open")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
