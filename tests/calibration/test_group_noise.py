"""The noise of every item is found by groups: exactly where it adds up, in few measurements where few make it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_calibration.group_noise import noise_of_each


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_what_adds_up_is_found(alone: list[int]) -> None:
    items = [str(i) for i in range(len(alone))]
    found = noise_of_each([items], lambda group: float(sum(alone[int(i)] for i in group)), evaluations=10**6)
    assert list(found) == items
    assert list(found.values()) == pytest.approx([float(n) for n in alone])


@pytest.mark.parametrize("place", [0, 77, 127])
def test_one_among_many_takes_a_few_measurements(place: int) -> None:
    asked: list[Sequence[str]] = []

    def noise(group: Sequence[str]) -> float:
        asked.append(group)
        return sum(100.0 if item == str(place) else 0.001 for item in group)

    items = [str(i) for i in range(128)]
    found = noise_of_each([items], noise, evaluations=2 * int(math.log2(128)) + 1)
    assert max(found, key=lambda item: found[item]) == str(place)
    assert found[str(place)] == pytest.approx(100, rel=1e-3)
    assert len(asked) <= 15


def test_no_more_than_allowed_is_measured() -> None:
    for evaluations in range(5):
        asked: list[int] = []

        def noise(group: Sequence[str], asked: list[int] = asked) -> float:
            asked.append(len(group))
            return float(len(group))

        found = noise_of_each(["abcdefgh"], noise, evaluations=evaluations)
        assert len(asked) == evaluations
        assert sum(found.values()) == (8.0 if evaluations else 0.0)
    assert noise_of_each((), lambda _: pytest.fail("nothing is to be measured"), evaluations=3) == {}


def test_each_group_is_measured_before_any_is_divided() -> None:
    """A loud item in one group does not hide a quiet group."""
    asked: list[Sequence[str]] = []
    alone = {**dict.fromkeys("abcd", 1.0), "e": 1000.0, **dict.fromkeys("fgh", 0.0)}

    def noise(group: Sequence[str]) -> float:
        asked.append(group)
        return sum(alone[item] for item in group)

    assert noise_of_each(["abcd", "efgh"], noise, evaluations=4)["a"] == 1.0
    assert asked[:3] == ["abcd", "efgh", "ef"]
    asked.clear()
    noise_of_each(["abcd", "efgh"], noise, evaluations=3)  # too few for it: all together come first
    assert list(asked[0]) == list("abcdefgh")


def test_what_does_not_add_up_is_measured_and_not_reckoned() -> None:
    """One half makes all the noise of both, which hides the other half's."""

    def noise(group: Sequence[str]) -> float:
        return max(5.0 if item == "a" else 4.0 for item in group)

    assert noise_of_each(["ab"], noise, evaluations=3) == {"a": 5.0, "b": 4.0}
