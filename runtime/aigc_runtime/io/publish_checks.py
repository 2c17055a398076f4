"""What may stand where something is to be published: all that can be known is refused before the work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from aigc_runtime.errors import AigcError, OutputError
from aigc_runtime.io.output_file import is_stream, replaced_file
from aigc_runtime.io.user_file import open_plain

__all__ = [
    "MANIFEST",
    "OWN_NAMES",
    "STAGING",
    "check_directory",
    "check_file",
    "is_foreign",
    "output_error",
    "refuse_foreign",
    "refuse_inside_bundle",
]

MANIFEST = "manifest.json"
"""By which a bundle is known."""

OWN_NAMES = ".aigc-"
"""What every temporary name begins with; no destination may."""
STAGING = f"{OWN_NAMES}staging-"
"""The longest of them, before the name of the destination."""


def check_file(path: Path | str) -> tuple[Path, ...]:
    """Refuse what `atomic_file` would refuse, and create nothing.

    Returns:
        The folders that will be made for it, the outermost first.

    Raises:
        OutputError: something else is there, or a place that cannot be written to.
    """
    target = Path(path).absolute()
    try:
        if is_stream(target):
            return ()
        target, _ = replaced_file(target)
        _check_nearest(target)
        refuse_inside_bundle(target)
    except OSError as err:
        raise output_error(Path(path).absolute(), err) from err
    return tuple(reversed([parent for parent in target.parents if not parent.exists()]))


def check_directory(destination: Path | str, *, marker: str) -> None:
    """Refuse what `atomic_directory` would refuse, and create nothing.

    Raises:
        OutputError: a destination that is not ours, or a place that cannot be written to.
    """
    target = Path(os.path.abspath(destination))  # noqa: PTH100 - as above
    try:
        refuse_foreign(target, marker)
        refuse_inside_bundle(target)
        _check_nearest(target)
        _check_names(target)
        if os.path.ismount(target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    except OSError as err:
        raise output_error(target, err) from err


def _check_names(target: Path) -> None:
    """Raise OSError if the temporary names beside a directory are too long for its file system."""
    nearest = next(parent for parent in target.parents if parent.exists())
    for name in (*target.relative_to(nearest).parts[:-1], f"{STAGING}{target.name}"):
        try:
            os.lstat(nearest / name)
        except FileNotFoundError:
            continue


def _check_nearest(target: Path) -> None:
    """Raise OSError if the nearest folder above that exists cannot be written to."""
    nearest = next(parent for parent in target.parents if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    if hasattr(os, "statvfs") and os.statvfs(nearest).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))


def refuse_foreign(target: Path, marker: str) -> None:
    """Refuse a destination that is no directory, or somebody else's.

    Raises:
        OutputError: so it is.
    """
    if target.name.startswith(OWN_NAMES):
        raise OutputError(
            f"cannot write {str(target)!r}: names that begin with {OWN_NAMES} are for temporary folders, which are "
            "cleared",
            hint="choose another name",
        )
    if os.path.lexists(target) and _is_working_folder(target):
        raise OutputError(
            f"cannot replace {str(target)!r}: the program runs in it",
            hint="choose a folder inside it, or run elsewhere",
        )
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(
            f"cannot write {str(target)!r}: it exists and is not a directory", hint="choose another place, or remove it"
        )
    if target.is_dir() and is_foreign(target, marker):
        raise OutputError(
            f"cannot replace {str(target)!r}: it holds files but no {marker}, so it was not written by this tool",
            hint="choose an empty or new directory",
        )


def _is_working_folder(target: Path) -> bool:
    """Whether replacing it would take the working folder away from under the program, and the shell that started it."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone already
        return False
    return here.is_relative_to(os.path.realpath(target))


def is_foreign(folder: Path, marker: str) -> bool:
    """Whether a folder holds something, and was not written by this tool."""
    return any(folder.iterdir()) and not (folder / marker).is_file()


def output_error(target: Path, err: OSError) -> OutputError:
    """What the system said of a write, with what to do."""
    advice = {
        errno.ENOSPC: "free some space, or choose another place",
        errno.EDQUOT: "the quota is used up: free some space, or choose another place",
        errno.EFBIG: "the file system or a limit refuses a file of this size",
        errno.EACCES: "you may not write there: choose another place",
        errno.EPERM: "you may not write there: choose another place",
        errno.ENXIO: "nothing reads from it: start the reader first",
        errno.EPIPE: "its reader went away",
        errno.EROFS: "the file system is read-only: choose another place",
        errno.EEXIST: "a file of that name is in the way: choose another place",
        errno.ENOTDIR: "part of the path is a file: choose another place",
        errno.EISDIR: "a directory of that name is in the way: choose another place",
        errno.ENOTEMPTY: "somebody else writes to it at the same time: try again",
        errno.EXDEV: "it is a mount point of its own: choose a place inside it",
        errno.EBUSY: "it is a mount point, or in use: choose a place inside it",
        errno.ENAMETOOLONG: "choose a shorter name",
    }.get(err.errno or 0, "check the path and the disk")
    return OutputError(
        f"cannot write {str(target)!r}: {err.strerror or err}", hint=f"{advice}; what was there before is unchanged"
    )


def refuse_inside_bundle(path: Path | str) -> None:
    """A bundle holds what its manifest lists, with its hash: with one file more or another it opens no more.

    Raises:
        OutputError: names the bundle.
    """
    for folder in Path(os.path.realpath(path)).parents:
        try:
            with os.fdopen(open_plain(folder / MANIFEST), "rb") as file:
                inside = b'"aigc-bundle"' in file.read(4096)
        except (AigcError, OSError):
            continue
        if inside:
            raise OutputError(
                f"cannot write {str(path)!r}: {str(folder)!r} is a bundle, which would no longer open",
                hint="choose a place outside of it; what was there before is unchanged",
            )
