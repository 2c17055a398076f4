"""The caller's random numbers and environment, as they were before a function that uses PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["callers_state"]


@contextmanager
def callers_state() -> Iterator[None]:
    """Restore PyTorch's global random state and the variables that its compiler sets; also used as a decorator.

    A module that is built draws its first weights, and a training is seeded, from the one global generator; its tracer
    sets TORCHINDUCTOR_CACHE_DIR for good.
    """
    import torch

    before = set(os.environ)
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else ()):
            yield
    finally:
        for name in set(os.environ) - before:
            if name.startswith("TORCH"):
                del os.environ[name]
