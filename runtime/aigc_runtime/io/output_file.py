"""What stands where a result is to be written, and what becomes of it.

| there | becomes of it |
| --- | --- |
| nothing, or a link to nothing | the file is made, with the permissions that the umask leaves |
| a plain file | it is replaced in one step, and keeps its permissions |
| a link to a plain file | the file is replaced, the link stays |
| a pipe that is read, a terminal, a character device | the result is written to it |
| a pipe that nobody reads, a folder, a socket, a block device | refused |
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

__all__ = ["is_standard_output", "is_stream", "open_stream", "replaced_file", "spooled_to"]

_IN_MEMORY_BYTES = 1 << 26


def is_standard_output(path: Path | str) -> bool:
    """Whether a path is another name of standard output, such as /dev/stdout."""
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):
        return False


def _own_stream(path: Path | str) -> int | None:
    """The handle of standard output or standard error, where a path is another name of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if os.path.samestat(Path(path).stat(), os.fstat(stream.fileno())):
                return stream.fileno()
        except (OSError, ValueError, AttributeError):
            continue
    return None


def is_stream(target: Path) -> bool:
    """Whether what stands there is written to, and not replaced.

    Raises:
        OSError: it is a folder, a socket or a block device.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(mode):
        return _own_stream(target) is not None
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return True
    kind = "a block device" if stat.S_ISBLK(mode) else "a socket" if stat.S_ISSOCK(mode) else "a special file"
    raise OSError(errno.EEXIST, f"it is {kind}")


def replaced_file(target: Path) -> tuple[Path, int | None]:
    """The file that is made or replaced, links followed, and the permissions of the one that is there.

    Raises:
        OSError: the links go round in a circle.
    """
    if target.is_symlink():
        target = Path(os.path.realpath(target, strict=target.exists()))
    try:
        return target, stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return target, None


@contextlib.contextmanager
def spooled_to(target: Path) -> Iterator[BinaryIO]:
    """A file whose content goes to a pipe or device once it is whole.

    Raises:
        OSError: nobody reads the pipe, or it does not take everything.
    """
    with contextlib.closing(open_stream(target)) as stream:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            yield file  # type: ignore[misc]
            file.seek(0)
            while piece := file.read(1 << 20):
                stream.write(piece)
        stream.flush()


def open_stream(target: Path) -> IO[bytes]:
    """Open a pipe or device to write to, without waiting for a reader.

    Raises:
        OSError: nobody reads the pipe.
    """
    own = _own_stream(target)
    if own is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fdopen(os.dup(own), "wb")
    # Opening a pipe would otherwise wait until somebody reads it, for ever if nobody does.
    handle = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    if hasattr(os, "set_blocking"):
        os.set_blocking(handle, True)
    return os.fdopen(handle, "wb")
