"""The smallest count that holds, in few questions, each asked once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigc_export.mixed_precision.descent import smallest


@given(st.integers(0, 200), st.integers(0, 200), st.integers(-5, 210), st.integers(0, 210))
def test_the_smallest_count_that_holds(low: int, span: int, guess: int, edge: int) -> None:
    high, requested = low + span, []

    def holds(count: int) -> bool:
        assert low <= count <= high
        assert count not in requested
        requested.append(count)
        return count >= edge

    assert smallest(low, high, lambda: guess, holds) == (max(low, edge) if edge <= high else None)
    assert len(requested) <= 17


def test_a_good_guess_needs_few_runs() -> None:
    requested: list[int] = []

    def holds(count: int) -> bool:
        requested.append(count)
        return count >= 40

    assert smallest(0, 500, lambda: 40, holds) == 40
    assert len(requested) <= 3
