"""How the command's process waits and collects, which is set before PyTorch is loaded."""

from __future__ import annotations

import gc
import os

__all__ = ["COLLECTED_OBJECTS", "prepare_process"]

COLLECTED_OBJECTS = 50_000
"""New objects that Python's collector of reference cycles waits for, in place of 700."""


def prepare_process() -> None:
    """Spin for a short time, and collect rarely. What the user has set stays."""
    _share_processors()
    _collect_rarely()


def _share_processors() -> None:
    """Let PyTorch's threads wait for each other without spinning for long.

    GNU's OpenMP spins for milliseconds at the end of every operator. Where anything else runs on the same processors,
    a thread that spins holds up the one that it waits for, and PyTorch takes up to ten times as long; where nothing
    does, a thousand rounds are as fast (docs/scale.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _collect_rarely() -> None:
    """Let the collector pass over the graphs that are made less often.

    PyTorch and its exporter keep close to a million objects. The collector goes through them again and again while a
    graph of thousands of nodes is made, and finds next to nothing that is free (docs/scale.md).
    """
    gc.set_threshold(COLLECTED_OBJECTS, *gc.get_threshold()[1:])
