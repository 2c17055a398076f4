"""Closing what belongs together, whatever a part of it raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aigc_runtime.errors import EngineError

__all__ = ["close_all"]


def close_all(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step, whatever fails, then raise the first failure: one broken handle must not keep all others."""
    first: EngineError | None = None
    for step in steps:
        try:
            step()
        except EngineError as err:
            first = first or err
    if first is not None:
        raise first
