"""A bundle's folder, opened once: whatever happens to its path, all files are read from the same folder.

A bundle is replaced by exchanging two folders, and the old one is deleted. Who opened the old one by its path, file
by file, would read files of both. Here the folder is opened, and files relative to it (`openat`), so that a reader has
the old bundle or the new one, or learns that its files are gone because it was replaced (`replaced`).

On systems that cannot open a folder, files are opened by path, and `replaced` tells afterwards.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from aigc_runtime.errors import BundleError
from aigc_runtime.io.plain_file import open_regular, read_handle
from aigc_runtime.io.publish import aside_of

__all__ = ["BundleFolder"]

_BY_HANDLE = hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd and os.listdir in os.supports_fd
_ABSENT_S = 1.0
"""How long a folder may be missing while it is replaced: the time between two renames, where folders cannot be
exchanged."""


class BundleFolder:
    """An open folder.

    Args:
        path: of it.

    Raises:
        BundleError: no folder, or not readable.
    """

    __slots__ = ("_handle", "_status", "path")

    def __init__(self, path: Path) -> None:
        self._handle = -1
        self.path = path
        deadline = time.monotonic() + _ABSENT_S
        while True:
            try:
                if _BY_HANDLE:
                    self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                self._status = os.fstat(self._handle) if _BY_HANDLE else path.stat()
            except FileNotFoundError as err:
                if not _is_being_replaced(path) or time.monotonic() > deadline:
                    raise _no_folder(path) from err
                time.sleep(0.002)
            except NotADirectoryError as err:
                raise _no_folder(path) from err
            except (OSError, ValueError) as err:  # ValueError: a null character in the path
                raise BundleError(
                    f"the folder {str(path)!r} cannot be opened: {getattr(err, 'strerror', None) or err}",
                    hint="check the path and its permissions",
                ) from err
            else:
                break
        if not path.is_dir() and not _BY_HANDLE:
            raise _no_folder(path)

    @property
    def location(self) -> str:
        """A path for libraries that open files by path."""
        return self._link if self.is_pinned else str(self.path.absolute())

    @property
    def is_pinned(self) -> bool:
        """Whether `location` stays that of the open folder, wherever its path leads by now; so it is on Linux."""
        return self._handle >= 0 and os.path.isdir(self._link)  # noqa: PTH112 - a path of the system's own

    @property
    def _link(self) -> str:
        return f"/proc/self/fd/{self._handle}"

    def names(self) -> set[str]:
        """What the folder holds."""
        self._require_open()
        try:
            return set(os.listdir(self._handle if _BY_HANDLE else self.path))  # noqa: PTH208 - of a handle
        except OSError as err:
            raise BundleError(f"the folder {str(self.path)!r} cannot be read: {err.strerror}") from err

    def open(self, name: str) -> int:
        """Open a plain file of it; see `open_regular`."""
        self._require_open()
        return open_regular(Path(name), folder=self._handle) if _BY_HANDLE else open_regular(self.path / name)

    def read(self, name: str, limit: int) -> bytes:
        """Read a plain file of at most `limit` bytes; see `read_regular`."""
        return read_handle(self.open(name), name, limit)

    def replaced(self) -> bool:
        """Whether the path leads to another folder by now, or to none."""
        try:
            return not os.path.samestat(self.path.stat(), self._status)
        except OSError:
            return True

    def close(self) -> None:
        """Give the handle back; done also when nothing refers to the folder any more."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _require_open(self) -> None:
        if _BY_HANDLE and self._handle < 0:
            raise BundleError(f"the bundle {str(self.path)!r} is closed", hint="open it again")

    def __del__(self) -> None:
        """Close it."""
        self.close()


def _is_being_replaced(path: Path) -> bool:
    return os.path.lexists(aside_of(path))


def _no_folder(path: Path) -> BundleError:
    return BundleError(f"{str(path)!r} is not a folder", hint="a bundle is the folder that `export -o` wrote")
