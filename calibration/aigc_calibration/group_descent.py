"""Choose one of several options for every item of a row, by the cost of all of them together, in few evaluations.

Neighbors get the same option first: the best for all, then for quarters of the row, then for halves, down to single
items; first of all in stretches whose options changed the cost most. Whatever is accepted has been evaluated with
everything else in its place, so that costs need not add up.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Choice", "descend"]

FIRST_GROUPS = 4
LEAST_GAIN = 0.002
"""Of the cost: less is noise of the samples."""

Option = TypeVar("Option", bound=str)


@dataclass(frozen=True, kw_only=True)
class Choice(Generic[Option]):
    """What was chosen.

    Attributes:
        options: item -> its option.
        cost: of these options.
        alike: option -> the cost of that option for all items.
        evaluations: how often a cost was computed.
    """

    options: Mapping[str, Option]
    cost: float
    alike: Mapping[Option, float]
    evaluations: int


def descend(
    items: Sequence[str],
    options: Sequence[Option],
    cost: Callable[[Mapping[str, Option]], float],
    *,
    differs: Callable[[str, Option, Option], bool] = lambda _item, _one, _other: True,
    evaluations: int,
) -> Choice[Option]:
    """Choose an option for every item.

    Args:
        items: in an order in which neighbors are likely to want the same.
        options: at least one; of two that cost the same for all items the first is taken.
        cost: of options for all items, at least 0.
        differs: whether two options of an item are different at all.
        evaluations: how often a cost may be computed; one for each option at least.

    Returns:
        Options that cost no more than the best option for all items.
    """
    known: dict[tuple[Option, ...], float] = {}

    def evaluated(chosen: Mapping[str, Option]) -> float | None:
        """The cost, unless it would be one too many to compute."""
        key = tuple(chosen[item] for item in items)
        if key not in known:
            if len(known) >= evaluations:
                return None
            known[key] = cost(chosen)
        return known[key]

    alike = {option: cost_of for option in options if (cost_of := evaluated(dict.fromkeys(items, option))) is not None}
    start = min(alike, key=lambda option: alike[option])
    chosen, best = dict.fromkeys(items, start), alike[start]
    order = itertools.count()
    waiting = [(-math.inf, next(order), group) for group in _divided(items, FIRST_GROUPS)]
    while waiting:
        _, _, group = heapq.heappop(waiting)
        effect = 0.0
        for option in options:
            changed = [item for item in group if differs(item, option, chosen[item])]
            tried = {**chosen, **dict.fromkeys(changed, option)}
            found = evaluated(tried)
            if found is None:
                return Choice(options=chosen, cost=best, alike=alike, evaluations=len(known))
            effect = max(effect, abs(found - best))
            if found < best * (1 - LEAST_GAIN):
                chosen, best = tried, found
        if len(group) > 1:
            for half in _divided(group, 2):
                heapq.heappush(waiting, (-effect, next(order), half))
    return Choice(options=chosen, cost=best, alike=alike, evaluations=len(known))


def _divided(items: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Divide a row into so many stretches of equal length, or as many as there are items."""
    parts = min(parts, len(items))
    ends = [round(i * len(items) / parts) for i in range(parts + 1)] if parts else []
    return [items[start:end] for start, end in itertools.pairwise(ends)]
