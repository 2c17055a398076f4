"""Reading the files of a bundle: plain ones alone, and never more than was announced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aigc_runtime.errors import BundleError

__all__ = ["open_regular", "read_regular"]


def open_regular(path: Path) -> int:
    """Open a plain file that has no other name; never follows a link, never waits on a pipe.

    Raises:
        BundleError: it is something else, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as err:
        kind = "a symbolic link" if path.is_symlink() else f"not readable ({err.strerror})"
        raise BundleError(f"{path.name!r} is {kind}", hint="a bundle holds plain files only") from err
    status = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "not a plain file"
    elif status.st_nlink > 1:
        problem = "a hard link, so another name could change it"
    if problem:
        os.close(handle)
        raise BundleError(f"{path.name!r} is {problem}", hint="a bundle holds plain files only: copy it again")
    return handle


def read_regular(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes.

    Raises:
        BundleError: larger, or not a plain file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"{path.name!r} is larger than {limit:,} bytes", hint="the file was changed: get it again")
    return data
