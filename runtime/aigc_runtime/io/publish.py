"""Writing so that a reader sees the old result or the new one, never a half-written one.

A directory is built beside its destination, flushed to disk, and exchanged with the destination in one system call
(`renameat2(RENAME_EXCHANGE)` on Linux). Killing the process at any point leaves the old directory as it was. Order:
fsync the files, fsync the directory, rename, fsync the parent.

Where that call does not exist (other systems, some network file systems), the old directory is renamed aside and the
new one renamed in. Between those two calls the destination does not exist; a kill there leaves the old directory
under its temporary name, and the next publish puts it back.

One writer at a time holds the destination's lock (`publish_lock`). What is found under the destination's temporary
names while the lock is held was left by a run that died, and is cleared; these names are a fixed beginning and the
whole name of the destination, so that none belongs to two. Where there are no locks, temporary names are random ones
that nobody clears, since nothing would say whose they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aigc_runtime.errors import OutputError
from aigc_runtime.io.output_file import is_stream, replaced_file, spooled_to
from aigc_runtime.io.publish_checks import OWN_NAMES, STAGING, is_foreign, output_error, refuse_foreign
from aigc_runtime.io.publish_lock import destination_lock, lock_handle, same_file
from aigc_runtime.system.interrupts import interrupts_held

__all__ = ["aside_of", "atomic_directory", "atomic_file", "atomic_write_bytes"]

_ASIDE = f"{OWN_NAMES}old-"
_FILE = f"{OWN_NAMES}file-"
_UNLOCKED = f"{OWN_NAMES}unlocked-"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_SWAPS = 8
"""Tries, where a destination comes and goes while it is replaced: only somebody without the lock does that."""


@contextlib.contextmanager
def atomic_directory(destination: Path | str, *, marker: str, needed_bytes: int = 0) -> Iterator[Path]:
    """Build a directory in a staging folder; on a clean exit it becomes `destination` in one step.

    A second writer of the same destination waits until the first is done.

    Args:
        destination: the directory to create or replace. Its parent is created.
        marker: name of a file that every directory of this kind holds. An existing destination without it that is
            not empty is somebody else's, and is refused.
        needed_bytes: refused at once if the file system has less than this free.

    Yields:
        The staging folder, to be filled with plain files.

    Raises:
        OutputError: no permission, no space, a destination that is not ours, or that another process keeps writing.
            The old directory stays as it was.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - resolve() would follow a symlink in the way
    try:
        refuse_foreign(target, marker)
        made = _make_parents(target)
        with destination_lock(target) as locked:
            with interrupts_held():
                staging = _begin(target, needed_bytes, locked=locked)
            try:
                yield staging
                _sync_tree(staging)
                _swap_in(staging, target, marker)
            finally:
                with interrupts_held():
                    shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            _sync_directory(folder.parent)
    except OSError as err:
        # Raised here or by the caller's own writing into the staging folder: a full disk, say.
        raise output_error(target, err) from err


def _make_parents(target: Path) -> list[Path]:
    """Create the folders above a destination; returns those that were not there."""
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return made


def _begin(target: Path, needed_bytes: int, *, locked: bool) -> Path:
    """Clear what dead runs left, and make the staging folder."""
    if locked:
        _clear_left(target)
    _require_space(target.parent, needed_bytes)
    if locked:
        staging = target.with_name(f"{STAGING}{target.name}")
    else:
        staging = target.with_name(f"{_UNLOCKED}{secrets.token_hex(8)}")
    staging.mkdir()
    return staging


def aside_of(destination: Path) -> Path:
    """Where the old directory is for a moment, while it is replaced where directories cannot be exchanged."""
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - as in `atomic_directory`
    return target.parent / f"{_ASIDE}{target.name}"


def _clear_left(target: Path) -> None:
    """Remove what a dead run left beside `target`; put an old directory back that was renamed aside."""
    aside = aside_of(target)
    if os.path.lexists(aside):
        if os.path.lexists(target):
            _remove(aside)
        else:
            aside.rename(target)
    _remove(target.with_name(f"{STAGING}{target.name}"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
        path: the file to create or replace; `output_file` says what becomes of links, pipes and devices.
        staging: folder for the temporary file, on the same file system; None takes the file's own.
        needed_bytes: refused at once if the file system has less than this free.

    Yields:
        The temporary file, to be written to.

    Raises:
        OutputError: no permission, no space. A file that was there stays as it was.
    """
    named = target = Path(path).absolute()
    try:
        if is_stream(target):
            with spooled_to(target) as stream:
                yield stream
            return
        target, mode = replaced_file(target)
        made = _make_parents(target)
        _require_space(target.parent, needed_bytes)
        with _temporary_file(Path(staging or target.parent), target.name, mode) as (file, temporary):
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not same_file(temporary, file.fileno()):
                raise FileNotFoundError(errno.ENOENT, "the temporary file was removed or replaced meanwhile")
            if os.name == "nt":
                file.close()  # what is open there cannot be renamed
            temporary.replace(target)
        for folder in (target, *made):
            _sync_directory(folder.parent)
    except OSError as err:
        raise output_error(named, err) from err


@contextlib.contextmanager
def _temporary_file(folder: Path, name: str, mode: int | None) -> Iterator[tuple[BinaryIO, Path]]:
    """A file to write to, of that mode or of what the umask leaves, removed if the block fails.

    Its name is a fixed one for `name`, so that what a killed run left is written over by the next; who writes it holds
    its lock. Where there is no lock to be had, or somebody has it, the name is a random one.
    """
    allowed = 0o666 if mode is None else mode
    with interrupts_held():
        handle, path = _claim(folder / f"{_FILE}{name}", allowed)
        if handle < 0:
            path = folder / f"{_UNLOCKED}{secrets.token_hex(8)}"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), allowed)
        try:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(handle, mode)
            file = os.fdopen(handle, "wb")
        except BaseException:
            path.unlink()
            os.close(handle)
            raise
    with file:
        try:
            yield file, path
        except BaseException:
            with interrupts_held():
                if os.name == "nt":
                    file.close()
                with contextlib.suppress(OSError):
                    path.unlink()  # while its lock is held: the next writer's file may have the same name
            raise


def _claim(path: Path, mode: int) -> tuple[int, Path]:
    """Open a file and take its lock, emptied; the handle is -1 if it cannot be had."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), mode)
    except OSError:
        return -1, path
    status = os.fstat(handle)
    locked = lock_handle(handle) if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 else False
    if locked and same_file(path, handle):
        os.ftruncate(handle, 0)
        return handle, path
    if locked is None and status.st_size == 0:
        path.unlink(missing_ok=True)  # made above
    os.close(handle)
    return -1, path


def _require_space(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise OutputError(
            f"{str(parent)!r} has {free:,} bytes free, {needed_bytes:,} are needed",
            hint="free some space, or choose another place; what was there before is unchanged",
        )


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


def _swap_in(staging: Path, target: Path, marker: str) -> None:
    """Make `staging` the destination; the old one ends up under the staging name, or is removed."""
    for _ in range(_SWAPS):
        try:
            if not os.path.lexists(target):
                staging.rename(target)
                break
            refuse_foreign(target, marker)
            if not _exchange(staging, target):
                _rename_twice(staging, target)
                break
            if not is_foreign(staging, marker):
                break
            _exchange(staging, target)  # it took the destination's place a moment ago, and is refused above
        except OSError as err:
            if err.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT) or not staging.is_dir():
                raise
    else:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    _sync_directory(target.parent)


def _rename_twice(staging: Path, target: Path) -> None:
    locked = staging.name == f"{STAGING}{target.name}"
    aside = aside_of(target) if locked else staging.with_name(f"{staging.name}-old")
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


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
