"""Estimate the memory and disk that a build needs of the host, before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.errors import InputError, OutputError

__all__ = ["BuildNeeds", "check_needs", "estimate_needs"]

LIBRARY_BYTES = 400 << 20
"""The library itself, loaded: 0.3 GB were measured on a graph of one node."""
COPIES_IN_MEMORY = 4
"""Of the weights: the file, the parsed network, the compiler's, the engine's."""
NODE_BYTES = 1 << 20
"""Host memory for compiling one node."""
KERNEL_BYTES = 128 << 10
"""Code in the engine for one node, on average at most: 11 MB were measured for 500 nodes."""
PROFILE_BYTES = 64 << 10
"""Code for one node and one more profile: 14 and 43 kB were measured. More devices add next to nothing: for six the
engine grew by 7 kB."""
ENGINE_BYTES = 1 << 20
"""An engine of a single node: 0.3 MB were measured."""


@dataclass(frozen=True, kw_only=True)
class BuildNeeds:
    """Bytes of host memory and of disk; both are estimates from above."""

    memory_bytes: int
    disk_bytes: int


def estimate_needs(*, weight_bytes: int, nodes: int, profiles: int = 1) -> BuildNeeds:
    """Estimate the memory and disk that building a graph takes.

    Args:
        weight_bytes: of all constants.
        nodes: of the graph.
        profiles: that the engine is optimized for.
    """
    more = PROFILE_BYTES * nodes * max(0, profiles - 1)
    return BuildNeeds(
        memory_bytes=LIBRARY_BYTES + COPIES_IN_MEMORY * weight_bytes + NODE_BYTES * nodes + more,
        disk_bytes=ENGINE_BYTES + 2 * weight_bytes + KERNEL_BYTES * nodes + more,
    )


def check_needs(needs: BuildNeeds, folder: Path, *, memory: int | None) -> None:
    """Refuse a build that would run out of memory or disk.

    Args:
        needs: estimated.
        folder: where the engine will be written.
        memory: bytes at hand, or None where unknown.

    Raises:
        InputError: not enough memory.
        OutputError: not enough disk.
    """
    if memory is not None and memory < needs.memory_bytes:
        raise InputError(
            f"building needs about {needs.memory_bytes / 1e9:.1f} GB of memory, {memory / 1e9:.1f} GB are free",
            hint="close other programs, raise the limit of the container, or build on a machine with more memory",
        )
    free = shutil.disk_usage(folder).free
    if free < needs.disk_bytes:
        raise OutputError(
            f"the engine needs about {needs.disk_bytes / 1e9:.1f} GB in {str(folder)!r}, {free / 1e9:.1f} GB are free",
            hint="make room, or set TMPDIR to a larger disk",
        )
