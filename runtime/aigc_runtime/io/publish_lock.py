"""Who writes a destination: the holder of its lock, which the system takes back when the holder dies.

The lock is `flock` on a file beside the destination. It is seen by every process that sees the file, in whatever
container; on NFS the system makes a byte-range lock of it, seen by other machines too. A process number in a file's
name says nothing of the kind: numbers are used again, and mean something else in another container.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from aigc_runtime.errors import OutputError
from aigc_runtime.system.interrupts import interrupts_held

__all__ = ["LOCK", "LOCK_TIMEOUT_S", "destination_lock", "lock_handle", "same_file"]

_LOG = logging.getLogger(__name__)

LOCK = ".aigc-lock-"
"""A lock file's name is this and the destination's name, so that two destinations never share one."""

LOCK_TIMEOUT_S = 120.0
"""A publish holds the lock for as long as its files take to be written."""

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_LONGEST_PAUSE_S = 0.02

_in_process: dict[str, threading.Lock] = {}
"""Where the system's locks belong to a process (NFS), they do not hold its threads apart."""


@contextlib.contextmanager
def destination_lock(target: Path) -> Iterator[bool]:
    """Hold the lock of a destination.

    Args:
        target: the destination; its parent exists.

    Yields:
        Whether it is held: False where the system or the file system has no locks.

    Raises:
        OutputError: another process has held it for `LOCK_TIMEOUT_S`.
        OSError: the lock file cannot be made or opened.
    """
    path = target.parent / f"{LOCK}{target.name}"
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    mine = _in_process.setdefault(str(path), threading.Lock())
    if not mine.acquire(timeout=LOCK_TIMEOUT_S):
        raise _busy(target, path)
    try:
        handle = _acquire(target, path, deadline)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                # While it is held: who opens it now finds out that the name has gone, and begins again.
                with interrupts_held():
                    with contextlib.suppress(OSError):
                        path.unlink()
                    os.close(handle)
    finally:
        mine.release()


def _acquire(target: Path, path: Path, deadline: float) -> int | None:
    pause, waited = 0.001, False
    while True:
        with interrupts_held():
            handle = _open(path)
            try:
                held = lock_handle(handle)
                # Its last holder may have removed it between our opening and our locking.
                if held and same_file(path, handle):
                    kept, handle = handle, -1
                    return kept
                if held is None:
                    with contextlib.suppress(OSError):
                        path.unlink()
                    return None
            finally:
                if handle >= 0:
                    os.close(handle)
        if not held:
            if time.monotonic() > deadline:
                raise _busy(target, path)
            if not waited:
                _LOG.info("another process writes %s: waiting for its lock %s", target, path)
                waited = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def _open(path: Path) -> int:
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        # NFS locks only what is open for writing.
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError as err:
        try:
            # Left by a run of another user: on a local file system a lock needs no right to write.
            return os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:
            raise err from None


def lock_handle(handle: int) -> bool | None:
    """Take the lock of an open file, without waiting.

    Returns:
        Whether this handle has it now; None where the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in _NO_LOCKS:
            return None
        if err.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def same_file(path: Path, handle: int) -> bool:
    """Whether a path names the very file that is open."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _busy(target: Path, path: Path) -> OutputError:
    return OutputError(
        f"cannot write {str(target)!r}: another process has been writing it for {LOCK_TIMEOUT_S:.0f} seconds",
        hint=f"wait until it is done, or end it (it holds the lock {str(path)!r}); what was there before is unchanged",
    )
