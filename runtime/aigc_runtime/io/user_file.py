"""Read a file that the user named: whole, as it is, and only if it is one.

A pipe or a device is refused and never waited for; links are followed, since model stores are made of them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aigc_runtime.errors import AigcError, InputError

__all__ = ["is_folder", "open_plain", "path_exists", "read_file"]

_CHUNK = 1 << 24
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def path_exists(path: Path | str) -> bool:
    """Whether there is something, links followed; False also where nobody can say, unlike `Path.exists`.

    A name that is too long, or a folder above that may not be searched, is told of by whoever opens the path.
    """
    return os.path.exists(path)  # noqa: PTH110 - so it is in Python 3.14's own `Path.exists`


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there, links followed; False also where nobody can say, unlike `Path.is_dir`."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def open_plain(path: Path | str, *, error: type[AigcError] = InputError) -> int:
    """Open a plain file for reading; never waits.

    Args:
        path: the file, or a link to it.
        error: the type to raise.

    Returns:
        The file descriptor, to be closed by the caller.

    Raises:
        AigcError: of type `error`; there is no such file, it may not be read, or it is a pipe, a device or a folder.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as err:
        link = " (a link to nothing)" if os.path.islink(path) else ""  # noqa: PTH114
        raise error(f"no such file: {str(path)!r}{link}", hint="check the path") from err
    except OSError as err:
        raise error(f"cannot read {str(path)!r}: {err.strerror}", hint="check the path and its permissions") from err
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    raise error(f"{str(path)!r} is {kind}, expected a plain file", hint="save what it gives to a file, and name that")


def read_file(path: Path | str, *, limit: int, error: type[AigcError] = InputError) -> bytes:
    """Read a plain file of at most `limit` bytes, which must not change meanwhile.

    Args:
        path: the file, or a link to it.
        limit: bytes that are allowed.
        error: the type to raise.

    Raises:
        AigcError: of type `error`; see `open_plain`, or the file is larger, or was changed while it was read.
    """
    with os.fdopen(open_plain(path, error=error), "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if before.st_size > limit:
            raise error(
                f"{str(path)!r} is larger than {limit:,} bytes: it has {before.st_size:,}", hint="give a smaller file"
            )
        pieces = bytearray()
        try:
            while len(pieces) <= before.st_size and (piece := file.read(_CHUNK)):
                pieces += piece
        except OSError as err:
            raise error(f"cannot read {str(path)!r}: {err.strerror}", hint="check the disk it is on") from err
        after = os.fstat(file.fileno())
    if len(pieces) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise error(f"{str(path)!r} was changed while it was read", hint="wait until it is written, and try again")
    return bytes(pieces)
