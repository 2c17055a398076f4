"""Estimate how much noise each of many items makes, by measuring groups of them: the noisiest groups are divided.

Where a few items make most of the noise, they are found in some log2(items) measurements each, in place of one for
every item.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence

__all__ = ["noise_of_each"]

TOO_NEAR = 0.1
"""Of a group's noise: what is left for its other half is measured where it is less, and else taken as the rest."""


def noise_of_each(
    groups: Sequence[Sequence[str]], noise: Callable[[Sequence[str]], float], *, evaluations: int
) -> dict[str, float]:
    """Estimate the noise of every item.

    Each group is measured where that takes no more than half of what may be measured, and all items together where it
    would; then the noisiest are divided. Noise is taken to add up: a half of a group makes what the other half does
    not. Items of a group that was not divided any further share its noise alike.

    Args:
        groups: of items that are likely to be alike, each in an order in which neighbors are.
        noise: of some items alone, at least 0.
        evaluations: how often it may be called.

    Returns:
        item -> its noise, in the order of the items.

    >>> alone = {"a": 1.0, "b": 8.0, "c": 0.0, "d": 0.0}
    >>> noise_of_each(["ab", "cd"], lambda group: sum(alone[item] for item in group), evaluations=5)
    {'a': 1.0, 'b': 8.0, 'c': 0.0, 'd': 0.0}
    """
    items = [item for group in groups for item in group]
    if not items or evaluations < 1:
        return dict.fromkeys(items, 0.0)
    found: dict[str, float] = {}
    order = itertools.count()
    first_groups = groups if 2 * len(groups) <= evaluations else [items]
    waiting = [(-noise(group), next(order), group) for group in first_groups]
    heapq.heapify(waiting)
    left = evaluations - len(waiting)
    while waiting:
        negative, _, group = heapq.heappop(waiting)
        whole = -negative
        if len(group) == 1 or left < 1 or not whole:
            found |= dict.fromkeys(group, whole / len(group))
            continue
        first, second = group[: len(group) // 2], group[len(group) // 2 :]
        of_first, left = noise(first), left - 1
        of_second = max(whole - of_first, 0.0)
        if of_second < TOO_NEAR * whole and left:
            of_second, left = noise(second), left - 1
        heapq.heappush(waiting, (-of_first, next(order), first))
        heapq.heappush(waiting, (-of_second, next(order), second))
    return {item: found[item] for item in items}
