"""Options chosen group by group are the best where costs add up, and never worse than one option for all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from aigc_calibration.group_descent import descend

ITEMS = tuple("abcdefgh")
OPTIONS = ("wide", "narrow")


def table(seed: int) -> dict[tuple[str, str], float]:
    rng = np.random.default_rng(seed)
    return {(item, option): float(rng.uniform(0.1, 1.0)) for item in ITEMS for option in OPTIONS}


@pytest.mark.parametrize("seed", range(5))
def test_costs_that_add_up_are_made_least(seed: int) -> None:
    costs = table(seed)
    found = descend(ITEMS, OPTIONS, lambda chosen: sum(costs[pair] for pair in chosen.items()), evaluations=1000)
    assert found.cost == pytest.approx(sum(min(costs[item, o] for o in OPTIONS) for item in ITEMS), rel=0.01)
    assert found.cost == pytest.approx(sum(costs[pair] for pair in found.options.items()))


def test_what_changes_the_cost_most_is_divided_first() -> None:
    """One of 64 items wants another option: some ten evaluations find it, where one by one takes up to 64."""
    items = [str(i) for i in range(64)]

    def cost(chosen: Mapping[str, str]) -> float:
        return sum(
            (1.0 if o == "wide" else 1.1) if item != "37" else (30.0 if o == "wide" else 0.0)
            for item, o in chosen.items()
        )

    found = descend(items, OPTIONS, cost, evaluations=16)
    assert found.options["37"] == "narrow"
    assert found.cost < 65


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse_than_one_option_for_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = {mix: float(rng.uniform()) for mix in itertools.product(OPTIONS, repeat=len(ITEMS))}  # nothing adds up

    def cost(chosen: Mapping[str, str]) -> float:
        return every[tuple(chosen[item] for item in ITEMS)]

    found = descend(ITEMS, OPTIONS, cost, evaluations=30)
    assert found.cost == cost(found.options) <= min(found.alike.values())
    assert found.alike == {option: cost(dict.fromkeys(ITEMS, option)) for option in OPTIONS}


@pytest.mark.parametrize("evaluations", [2, 3, 7, 20])
def test_costs_are_computed_as_often_as_allowed(evaluations: int) -> None:
    costs, asked = table(0), []

    def cost(chosen: Mapping[str, str]) -> float:
        asked.append(dict(chosen))
        return sum(costs[pair] for pair in chosen.items())

    found = descend(ITEMS, OPTIONS, cost, evaluations=evaluations)
    assert len(asked) == found.evaluations <= evaluations
    assert len({tuple(one.values()) for one in asked}) == len(asked)  # none of them twice


def test_options_that_are_one_are_not_tried() -> None:
    asked: list[Mapping[str, str]] = []

    def cost(chosen: Mapping[str, str]) -> float:
        asked.append(chosen)
        return 1.0 + (chosen["a"] == "wide")

    found = descend(ITEMS, OPTIONS, cost, differs=lambda item, _one, _other: item == "a", evaluations=100)
    assert found.options["a"] == "narrow"
    assert len(asked) <= 4


def test_a_row_of_one_and_of_none() -> None:
    assert descend(("a",), OPTIONS, lambda c: float(c["a"] == "wide"), evaluations=9).options == {"a": "narrow"}
    assert descend((), OPTIONS, lambda _: 0.5, evaluations=9).options == {}


def test_of_options_that_cost_the_same_the_first_is_taken() -> None:
    assert set(descend(ITEMS, OPTIONS, lambda _: 0.5, evaluations=50).options.values()) == {"wide"}
