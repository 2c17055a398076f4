"""Find how many sites must stay in high precision: the smallest number whose mix keeps the budget, with few real runs.

Quality grows with the number of sites in high precision, but for the engine's rounding. The additive noise model says
where to look first; every answer is a real run.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["smallest"]


def smallest(low: int, high: int, guess: Callable[[], int], holds: Callable[[int], bool]) -> int | None:
    """Find the smallest count in [low, high] that holds, for a `holds` that is false up to it and true from there on.

    `low` is tried first, then `guess()` (called after it), then counts at doubling distances from there, then the
    middle between the largest that failed and the smallest that held.

    Args:
        low: smallest count.
        high: largest count.
        guess: where to look, once `low` has failed.
        holds: whether a count is enough; asked once per count.

    Returns:
        The count, or None if not even `high` holds.

    >>> smallest(0, 100, lambda: 40, lambda k: k >= 37)
    37
    """
    if holds(low):
        return low
    if high <= low:
        return None
    failed, held = low, None
    at = min(max(guess(), low + 1), high)
    stride = 1
    while held is None or held - failed > 1:
        if holds(at):
            held = at
        elif at == high:
            return None
        else:
            failed = at
        if held is None:
            at = min(at + stride, high)
        elif held - failed > 1:
            at = max(held - stride, failed + 1) if stride < (held - failed) // 2 else (held + failed) // 2
        stride *= 2
    return held
