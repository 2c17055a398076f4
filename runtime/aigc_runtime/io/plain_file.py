"""Reading the files of a bundle: plain ones alone, and never more than was announced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aigc_runtime.errors import BundleError

__all__ = ["open_regular", "read_handle", "read_regular"]


def open_regular(path: Path, *, folder: int | None = None) -> int:
    """Open a plain file that has no other name; never follows a link, never waits on a pipe.

    Args:
        path: of the file.
        folder: handle of an open folder that the path is relative to.

    Raises:
        BundleError: it is something else, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, dir_fd=folder)
    except OSError as err:
        if _is_link(path, folder):
            raise BundleError(
                f"{path.name!r} is a symbolic link",
                hint="a bundle holds plain files only: copy it with the links followed, `cp -rL BUNDLE COPY`",
            ) from err
        raise BundleError(
            f"{path.name!r} is not readable ({err.strerror})", hint="a bundle holds plain files only"
        ) from err
    status = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "not a plain file"
    elif status.st_nlink > 1:
        problem = "a hard link, so another name could change it"
    if problem:
        os.close(handle)
        raise BundleError(f"{path.name!r} is {problem}", hint="a bundle holds plain files only: copy it, `cp -r`")
    return handle


def _is_link(path: Path, folder: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def read_regular(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes.

    Raises:
        BundleError: larger, or not a plain file.
    """
    return read_handle(open_regular(path), path.name, limit)


def read_handle(handle: int, name: str, limit: int) -> bytes:
    """Read an open file of at most `limit` bytes and close it.

    Raises:
        BundleError: larger, or it cannot be read.
    """
    with os.fdopen(handle, "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as err:
            raise BundleError(f"{name!r} cannot be read: {err.strerror}", hint="copy the bundle again") from err
    if len(data) > limit:
        raise BundleError(f"{name!r} is larger than {limit:,} bytes", hint="the file was changed: get it again")
    return data
