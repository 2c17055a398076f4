"""How much memory this process may still take: what the machine has, and what its control group leaves of it.

A container, a batch job or a service may be limited to a part of the machine; going beyond ends the process without a
word. Both versions of control groups are read, for the group of this process and for every one above it (Linux,
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["available_memory", "give_back_memory"]


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Names of one version: folder below the mount, limit, use, and the counter of cached pages that can be dropped."""

    folder: str
    limit: str
    use: str
    droppable: str


_V2 = _Files(folder="", limit="memory.max", use="memory.current", droppable="inactive_file")
_V1 = _Files(
    folder="memory", limit="memory.limit_in_bytes", use="memory.usage_in_bytes", droppable="total_inactive_file"
)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that can be had without swapping; None where the system does not say.

    Args:
        root: of the file system.
    """
    found = [size for size in (_machine(root), *_groups(root)) if size is not None]
    return max(0, min(found)) if found else None


def give_back_memory() -> None:
    """Give what was freed back to the system: glibc keeps it, so that a process stays as large as it ever was."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _machine(root: Path) -> int | None:
    value = _counters(root / "proc/meminfo").get("MemAvailable:")
    return None if value is None else value * 1024


def _groups(root: Path) -> Iterator[int | None]:
    """What each control group of this process leaves."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        files = _V1 if controllers else _V2
        group = PurePosixPath(path)
        for name in (group, *group.parents):
            yield _left(root / "sys/fs/cgroup" / files.folder / str(name).lstrip("/"), files)


def _left(folder: Path, files: _Files) -> int | None:
    """Of one group: its limit less its use, cached pages that can be dropped not counted; None without a limit."""
    limit, use = _text(folder / files.limit).strip(), _text(folder / files.use).strip()
    if not limit.isdigit() or not use.isdigit():  # `max`, or the group is not seen from inside a container
        return None
    droppable = _counters(folder / "memory.stat").get(files.droppable, 0)
    return int(limit) - max(0, int(use) - droppable)


def _counters(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    words = (line.split() for line in _text(path).splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) >= 2 and w[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
