"""Writing so that a reader sees the old result or the new one, never a half-written one.

A directory is built beside its destination, flushed to disk, and exchanged with the destination in one system call
(`renameat2(RENAME_EXCHANGE)` on Linux). Killing the process at any point leaves the old directory as it was. Order:
fsync the files, fsync the directory, rename, fsync the parent.

Where that call does not exist (other systems, some network file systems), the old directory is renamed aside and the
new one renamed in. Between those two calls the destination does not exist; a kill there leaves the old directory
under its temporary name, and the next publish puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aigc_runtime.errors import OutputError

__all__ = ["atomic_directory", "atomic_file", "atomic_write_bytes", "check_directory"]

_STAGING = ".aigc-staging-"
_ASIDE = ".aigc-old-"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextlib.contextmanager
def atomic_directory(destination: Path | str, *, marker: str, needed_bytes: int = 0) -> Iterator[Path]:
    """Build a directory in a staging folder; on a clean exit it becomes `destination` in one step.

    Args:
        destination: the directory to create or replace. Its parent is created.
        marker: name of a file that every directory of this kind holds. An existing destination without it that is
            not empty is somebody else's, and is refused.
        needed_bytes: refused at once if the file system has less than this free.

    Yields:
        The staging folder, to be filled with plain files.

    Raises:
        OutputError: no permission, no space, a destination that is not ours. The old directory stays as it was.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - resolve() would follow a symlink in the way
    staging: Path | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _refuse_foreign(target, marker)
            _clean_stale(target)
            _require_space(target.parent, needed_bytes)
            staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{target.name}-{os.getpid()}-", dir=target.parent))
            staging.chmod(0o755)
        except OSError as err:
            raise _output_error(target, err) from err
        yield staging
        try:
            _sync_tree(staging)
            _swap_in(staging, target)
        except OSError as err:
            raise _output_error(target, err) from err
    except OSError as err:
        # Raised by the caller's own writing into the staging folder: a full disk, say.
        raise _output_error(target, err) from err
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def atomic_write_bytes(path: Path | str, data: bytes, *, staging: Path | str | None = None) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file to create or replace.
        data: its content.
        staging: folder for the temporary file, on the same file system; None takes the file's own.

    Raises:
        OutputError: no permission, no space. A file that was there stays as it was.
    """
    with atomic_file(path, staging=staging) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path | str, *, staging: Path | str | None = None, needed_bytes: int = 0) -> Iterator[BinaryIO]:
    """Write a file piece by piece; on a clean exit it becomes `path` in one step.

    Args:
        path: the file to create or replace.
        staging: folder for the temporary file, on the same file system; None takes the file's own.
        needed_bytes: refused at once if the file system has less than this free.

    Yields:
        The temporary file, to be written to.

    Raises:
        OutputError: no permission, no space. A file that was there stays as it was.
    """
    target = Path(path).absolute()
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _require_space(target.parent, needed_bytes)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=staging or target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
        temporary = None
        _sync_directory(target.parent)
    except OSError as err:
        raise _output_error(target, err) from err
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _output_error(target: Path, err: OSError) -> OutputError:
    advice = {
        errno.ENOSPC: "free some space, or choose another place",
        errno.EDQUOT: "the quota is used up: free some space, or choose another place",
        errno.EFBIG: "the file system or a limit refuses a file of this size",
        errno.EACCES: "you may not write there: choose another place",
        errno.EPERM: "you may not write there: choose another place",
        errno.EROFS: "the file system is read-only: choose another place",
        errno.EEXIST: "a file of that name is in the way: choose another place",
        errno.ENOTDIR: "part of the path is a file: choose another place",
        errno.EISDIR: "a directory of that name is in the way: choose another place",
    }.get(err.errno or 0, "check the path and the disk")
    return OutputError(
        f"cannot write {str(target)!r}: {err.strerror or err}", hint=f"{advice}; what was there before is unchanged"
    )


def check_directory(destination: Path | str, *, marker: str) -> None:
    """Refuse what `atomic_directory` would refuse, and create nothing.

    Raises:
        OutputError: a destination that is not ours, or a place that cannot be written to.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - as above
    try:
        _refuse_foreign(target, marker)
        nearest = next(parent for parent in target.parents if parent.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
    except OSError as err:
        raise _output_error(target, err) from err


def _refuse_foreign(target: Path, marker: str) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(
            f"cannot write {str(target)!r}: it exists and is not a directory", hint="choose another place, or remove it"
        )
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise OutputError(
            f"cannot replace {str(target)!r}: it holds files but no {marker}, so it was not written by this tool",
            hint="choose an empty or new directory",
        )


def _require_space(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise OutputError(
            f"{str(parent)!r} has {free:,} bytes free, {needed_bytes:,} are needed",
            hint="free some space, or choose another place; what was there before is unchanged",
        )


def _clean_stale(target: Path) -> None:
    """Remove what killed runs left beside `target`; put an old directory back that was renamed aside."""
    for left in target.parent.glob(f"{_STAGING}{target.name}-*"):
        if not _is_alive(left.name.removeprefix(f"{_STAGING}{target.name}-")):
            shutil.rmtree(left, ignore_errors=True)
    for old in target.parent.glob(f"{_ASIDE}{target.name}-*"):
        if _is_alive(old.name.removeprefix(f"{_ASIDE}{target.name}-")):
            continue
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _is_alive(suffix: str) -> bool:
    """Whether the process `suffix` starts with (`1234-abcd`) runs; what is not of this form is left alone."""
    pid = suffix.partition("-")[0]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    _sync_directory(folder)


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap_in(staging: Path, target: Path) -> None:
    """Make `staging` the destination; the old one ends up under the staging name, or is removed."""
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        aside = target.parent / f"{_ASIDE}{target.name}-{os.getpid()}-"
        target.rename(aside)
        try:
            staging.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _sync_directory(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two directories in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))
