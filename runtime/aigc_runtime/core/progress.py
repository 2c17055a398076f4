"""Progress of long work: the callback that a caller gives, and its form for one phase of the work."""

from __future__ import annotations

from collections.abc import Callable

from aigc_runtime.errors import CancelledError

__all__ = ["Progress", "phase"]

Progress = Callable[[str, int, int], bool | None]
"""Called as progress(what, done, total); False cancels the work."""


def phase(progress: Progress | None, what: str, total: int) -> Callable[[int], None]:
    """Bind a callback to one phase of the work; the result takes the count of what is done.

    >>> phase(print, "ranges", 48)(16)
    ranges 16 48

    Args:
        progress: the caller's callback; None reports nothing.
        what: name of the phase.
        total: count at which the phase is complete.

    Returns:
        A function that reports a count; it raises CancelledError where `progress` returns False.
    """

    def report(done: int) -> None:
        if progress is not None and progress(what, done, total) is False:
            raise CancelledError(f"{what}: cancelled after {done} of {total}")

    return report
