"""Combinations by sums, beside all of them counted out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from aigc_export.mixed_precision.combinations import MIN_SHARE, pareto_combinations


@dataclass(frozen=True)
class Chosen:
    part: str
    precision: str
    cost: float
    noise: float


def parts(numbers: list[list[tuple[int, int]]]) -> list[list[Chosen]]:
    return [
        [Chosen(f"part{i}", f"p{k}", float(cost), float(noise)) for k, (cost, noise) in enumerate(own)]
        for i, own in enumerate(numbers)
    ]


numbers = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(numbers)
def test_the_front_is_that_of_all_combinations(drawn: list[list[tuple[int, int]]]) -> None:
    made = parts(drawn)
    found = pareto_combinations(made)
    for one in found:
        assert one.choices.keys() == {own[0].part for own in made}
        assert one.cost == sum(choice.cost for choice in one.choices.values())
        assert one.noise == sum(choice.noise for choice in one.choices.values())
    every = [(sum(c.cost for c in row), sum(c.noise for c in row)) for row in itertools.product(*made)]
    for one in found:
        assert not any(c <= one.cost and n <= one.noise and (c, n) != (one.cost, one.noise) for c, n in every)
    # What was left out saves next to nothing, or is worse in both.
    for cost, noise in every:
        assert any(one.noise <= noise and (1 - MIN_SHARE) * one.cost <= cost for one in found)
    costs, noises = [one.cost for one in found], [one.noise for one in found]
    assert costs == sorted(costs)
    assert noises == sorted(noises, reverse=True)
    assert all(a < (1 - MIN_SHARE) * b for a, b in itertools.pairwise(costs))


def test_many_parts_take_no_time() -> None:
    """Three in each of twenty parts are 3.5 thousand million combinations."""
    found = pareto_combinations(parts([[(9, 0), (5, 1), (2, 3)]] * 20))
    assert (found[0].cost, found[0].noise) == (40, 60)
    assert (found[-1].cost, found[-1].noise) == (180, 0)
    assert len(found) < 200
