"""Standard output and standard error that never decide what a command line does.

A character that the stream's encoding lacks is replaced. A stream that is closed, full, or that nobody reads any more
takes what it is given and drops it: the work goes on to its verdict, and who asks is told what was lost.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["GuardedText", "guarded_streams", "output_lost"]


class _Sink(io.RawIOBase):
    """The raw file below a standard stream: its first failure ends the writing, not the program.

    Args:
        raw: the file; None for a stream that was closed before the program began.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.failure: OSError | None = None if raw is not None else OSError(errno.EBADF, os.strerror(errno.EBADF))

    def writable(self) -> bool:
        """True, even of a stream that is closed."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._raw is not None and bool(self._raw.isatty())

    def fileno(self) -> int:
        """The descriptor."""
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._raw.fileno())

    def write(self, data: Any, /) -> int:
        """Write, or drop what can no longer be written; the number of bytes taken."""
        size = memoryview(data).nbytes
        while self.failure is None:
            try:
                written = self._raw.write(data)
                if written is not None:
                    return int(written)
                select.select([], [self.fileno()], [])  # a pipe that does not block, and is full
            except OSError as err:
                self.failure = err
        return size


class GuardedText(io.TextIOWrapper):
    """A standard stream over a `_Sink`.

    Args:
        stream: what stands there now; None where it is closed.
        errors: what becomes of a character that the encoding lacks.
        line_buffering: whether every line is written at once.
    """

    def __init__(self, stream: TextIO | None, *, errors: str, line_buffering: bool) -> None:
        buffer = getattr(stream, "buffer", None)
        self._sink = _Sink(getattr(buffer, "raw", buffer))
        encoding = "utf-8" if stream is None else stream.encoding
        super().__init__(
            io.BufferedWriter(self._sink),
            encoding=encoding,
            errors=errors,
            line_buffering=line_buffering or self._sink.isatty(),
            write_through=bool(getattr(stream, "write_through", False)),
        )

    @property
    def failure(self) -> OSError | None:
        """Why something was lost; None if nothing was."""
        return self._sink.failure


@contextlib.contextmanager
def guarded_streams() -> Iterator[GuardedText]:
    """Put guards in the place of standard output and standard error; for entry points alone.

    Yields:
        Standard output.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    _fill_closed_descriptors()
    out = GuardedText(sys.stdout, errors="replace", line_buffering=False)
    err = GuardedText(sys.stderr, errors="backslashreplace", line_buffering=True)
    sys.stdout, sys.stderr = out, err
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def output_lost() -> bool:
    """Whether standard output can no longer be written: a verb that only writes may stop."""
    return isinstance(sys.stdout, GuardedText) and sys.stdout.failure is not None


def _fill_closed_descriptors() -> None:
    """Occupy closed ones of 0, 1 and 2, or the next file that is opened becomes standard output."""
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            return
        os.set_inheritable(handle, True)
