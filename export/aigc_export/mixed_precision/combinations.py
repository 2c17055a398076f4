"""Choose among combinations by a sum of costs and a sum of noises: every part of a program has one choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["MIN_SHARE", "Choice", "Combination", "pareto_combinations"]

MIN_SHARE = 0.01
"""The share of its cost by which a combination must be cheaper than a more exact one to be worth its noise."""


class Choice(Protocol):
    """A part in one precision."""

    @property
    def part(self) -> str:
        """Its name."""
        ...

    @property
    def precision(self) -> str:
        """That it is in."""
        ...

    @property
    def cost(self) -> float:
        """By the objective; costs of parts add up."""
        ...

    @property
    def noise(self) -> float:
        """That it adds to the results; noises of parts add up."""
        ...


C = TypeVar("C", bound=Choice)


@dataclass(frozen=True, kw_only=True)
class Combination(Generic[C]):
    """A choice for every part.

    Attributes:
        choices: part -> choice.
        cost: sum over the parts.
        noise: sum over the parts: what the model predicts, and no measurement.
    """

    choices: Mapping[str, C]
    cost: float
    noise: float


def pareto_combinations(parts: Iterable[Sequence[C]]) -> tuple[Combination[C], ...]:
    """List the combinations that no other is as cheap and as exact as, the cheapest first.

    Of those that cost nearly the same the most exact one stays: each is cheaper by `MIN_SHARE` than the next.

    Args:
        parts: of each part its choices, one at least.
    """
    front = [Combination[C](choices={}, cost=0, noise=0)]
    for choices in parts:
        front = _front(_with(before, choice) for before in front for choice in choices)
    kept = [front[-1]]
    for one in reversed(front[:-1]):
        if one.cost < (1 - MIN_SHARE) * kept[-1].cost:
            kept.append(one)
    return tuple(reversed(kept))


def _with(before: Combination[C], choice: C) -> Combination[C]:
    return Combination(
        choices={**before.choices, choice.part: choice},
        cost=before.cost + choice.cost,
        noise=before.noise + choice.noise,
    )


def _front(found: Iterable[Combination[C]]) -> list[Combination[C]]:
    """Drop what another one is as cheap and as exact as: a dominated beginning stays dominated whatever follows."""
    front: list[Combination[C]] = []
    for one in sorted(found, key=lambda c: (c.cost, c.noise, [choice.precision for choice in c.choices.values()])):
        if not front or one.noise < front[-1].noise:
            front.append(one)
    return front
