"""The file that keeps kernels which TensorRT-RTX compiled on this device, so that the next start is quick.

It lies in the user's cache folder, never in a bundle, which is immutable. What it holds is code, so it is only read if
nobody else can have written it, and whole: a line of magic, the SHA-256 of the rest, the library's own bytes. The
library checks on its own that they fit its version, the driver and the device. Any other file counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from pathlib import Path

from aigc_runtime.errors import OutputError
from aigc_runtime.io.publish import atomic_write_bytes

__all__ = ["cache_path", "read_cache", "write_cache"]

_MAGIC = b"aigc-runtime kernels 1\n"
_MOST_BYTES = 2**30


def cache_path(engine_sha256: str, device: str) -> Path:
    """Where the kernels of an engine on a device are kept.

    Args:
        engine_sha256: of the engine's bytes.
        device: its name and compute capability.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = base if base.is_absolute() else Path.home() / ".cache"
    plain = re.sub(r"[^a-z0-9.]+", "-", device.lower()).strip("-.")[:80]
    return folder / "aigc-runtime" / f"{engine_sha256}-{plain}.cache"


def read_cache(path: Path) -> bytes | None:
    """The library's bytes; None if there is no file, or none that can be trusted."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            data = file.read(_MOST_BYTES)
    except OSError:
        return None
    start = len(_MAGIC) + 32
    if not data.startswith(_MAGIC) or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        return None
    return data[start:]


def write_cache(path: Path, data: bytes) -> None:
    """Write the file whole or not at all.

    A device whose file system is read-only or full runs all the same and compiles again at the next start, so that a
    failure to write is not one of the session.
    """
    with contextlib.suppress(OSError, OutputError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that is replaced keeps its link and its mode, and a new one has what the umask leaves.
        if os.path.lexists(path) and not _is_ours(path.lstat()):
            path.unlink()
        atomic_write_bytes(path, _MAGIC + hashlib.sha256(data).digest() + data)
        path.chmod(0o600)


def _is_ours(status: os.stat_result) -> bool:
    """A plain file of this user that nobody else may write."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        return False
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
