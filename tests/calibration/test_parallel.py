"""Work in threads: in order, and the first failure is raised."""

from __future__ import annotations

import threading

import pytest

from aigc_calibration.parallel import in_threads


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_results_keep_their_order(threads: int | None) -> None:
    assert in_threads(lambda n: n * n, range(50), threads) == [n * n for n in range(50)]


def test_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2)
    assert sorted(in_threads(lambda _: both.wait(timeout=30), range(2), 2)) == [0, 1]


def test_a_failure_is_raised_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def work(n: int) -> None:
        begun.append(n)
        raise ValueError(str(n))

    with pytest.raises(ValueError, match="0"):
        in_threads(work, range(10_000), 1)
    assert len(begun) < 10_000
