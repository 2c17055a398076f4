"""A bound on the memory that a command line takes: what is free, so that an allocation fails in place of the machine.

Linux promises memory that it does not have, and ends the process, or another one, when it is used. Under this bound the
engine is told at once that it cannot have it, and the user is told what did not fit. For the process of a command line
alone: the bound holds for everything in it. Threads are started before: stacks count in full, and a library that cannot
start one may wait for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aigc_runtime.system.host_memory import available_memory

__all__ = ["bounded_memory"]

_LOG = logging.getLogger(__name__)


@contextmanager
def bounded_memory(*, status: Path = Path("/proc/self/status")) -> Iterator[None]:
    """Bound the data of this process to what it has and what is free; nothing where the system does not say.

    Args:
        status: of this process, for tests.
    """
    free, held = available_memory(), _data_bytes(status)
    if free is None or held is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = held + free
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    _LOG.debug("memory is bounded to %d MB: %d MB held, %d MB free", bound >> 20, held >> 20, free >> 20)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes(status: Path) -> int | None:
    """Private writable memory of this process, which RLIMIT_DATA counts (Linux 4.7 and later)."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith("VmData:")), [])
    return int(words[1]) * 1024 if len(words) == 3 and words[1].isdigit() else None
