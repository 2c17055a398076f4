"""Work in threads: in order, and the first failure is raised."""

from __future__ import annotations

import threading
import time

import pytest

from aigc_calibration.parallel import MAX_AT_ONCE, in_threads


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_results_keep_their_order(threads: int | None) -> None:
    assert in_threads(lambda n: n * n, range(50), threads) == [n * n for n in range(50)]


def test_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2)
    assert sorted(in_threads(lambda _: both.wait(timeout=30), range(2), 2)) == [0, 1]


def test_memory_is_that_of_a_few_items_whatever_the_processors() -> None:
    lock, working, most = threading.Lock(), [0], [0]

    def work(_: int) -> None:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        time.sleep(0.02)
        with lock:
            working[0] -= 1

    in_threads(work, range(40), 64)
    assert 1 < most[0] <= MAX_AT_ONCE


def test_a_failure_is_raised_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def work(n: int) -> None:
        begun.append(n)
        raise ValueError(str(n))

    with pytest.raises(ValueError, match="0"):
        in_threads(work, range(10_000), 1)
    assert len(begun) < 10_000
