"""Histograms hold what numpy holds, whatever the order and the batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aigc_calibration.histogram import HALF_BINS, Histogram
from aigc_runtime.core.tensors import Array

floats = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))


def of(*batches: Array) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def same(a: Histogram, b: Histogram) -> None:
    assert (a.width, a.low, a.high, a.count, a.zeros, a.huge) == (b.width, b.low, b.high, b.count, b.zeros, b.huge)
    np.testing.assert_array_equal(a.counts, b.counts)


@given(st.lists(floats, min_size=1, max_size=5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_order_and_batches_do_not_matter(batches: list[Array], random: object) -> None:
    one = of(*batches)
    same(one, of(*batches[::-1]))
    same(one, of(np.concatenate(batches)))
    first, second = of(*batches[:1]), of(*batches[1:])
    first.merge(second)
    same(one, first)
    assert one.counts.sum() + one.zeros == one.count == sum(b.size for b in batches)


@given(floats)
@example(np.array([-1.5e-26, 9.6e24, 0.0, 1e-26], dtype=np.float32))
@settings(max_examples=60, deadline=None)
def test_every_value_lies_in_its_bin(values: Array) -> None:
    histogram = of(values)
    edges = (np.arange(2 * HALF_BINS + 1) - HALF_BINS) * histogram.width
    nonzero = values[values != 0].astype(np.float64)
    if not nonzero.size:
        assert histogram.width == 0
        return
    if np.abs(nonzero).max() > 1e-30:
        expected, _ = np.histogram(nonzero, edges)
        np.testing.assert_array_equal(histogram.counts, expected)
        assert (
            np.abs(nonzero).max() <= HALF_BINS * histogram.width <= 4 * np.abs(nonzero).max() or nonzero.max() < 1e-30
        )
    assert (histogram.low, histogram.high) == (values.min(), values.max())


@given(floats, st.integers(1, 13))
@settings(max_examples=40, deadline=None)
def test_of_every_so_manyth_the_extremes_are_those_of_all(values: Array, every: int) -> None:
    some, counted = Histogram(), of(values[::every])
    some.update(values, every=every)
    assert (some.low, some.high, some.count, some.zeros) == (values.min(), values.max(), counted.count, counted.zeros)
    assert some.counts.sum() == counted.counts.sum()


def test_a_mask_constant_is_seen_among_those_that_are_not_counted() -> None:
    values = np.ones(27, np.float32)
    values[5] = -np.inf
    some = Histogram()
    some.update(values, every=13)
    assert (some.huge, some.count, some.amax) == (1, 2, 1.0)


def test_magnitudes_are_those_of_both_signs() -> None:
    histogram = of(np.array([-1.0, 1.0, 2.0, 0.0], dtype=np.float32))
    centers, counts = histogram.magnitudes()
    assert counts.sum() == 3
    assert histogram.zeros == 1
    # -1 closes the bin below it, 1 opens the one above.
    near_one = counts[np.abs(centers - 1.0) < 1.5 * histogram.width]
    assert near_one.sum() == 2
    assert histogram.amax == 2.0


def test_masks_are_set_aside() -> None:
    histogram = of(np.array([1.0, -np.inf, np.finfo(np.float32).min, 0.5], dtype=np.float32))
    assert (histogram.huge, histogram.count, histogram.amax) == (2, 2, 1.0)
    assert of(np.array([-np.inf], dtype=np.float32)).amax == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e20])
def test_any_scale(scale: float) -> None:
    histogram = of((np.linspace(-1, 1, 1001) * scale).astype(np.float32))
    assert histogram.counts.sum() == 1000
    assert histogram.amax == pytest.approx(scale)
    assert np.count_nonzero(histogram.counts) == 1000


def test_growth_keeps_the_small_bins_exact() -> None:
    histogram = of(np.full(5, 0.001, np.float32), np.full(3, 1000.0, np.float32), np.full(2, -0.001, np.float32))
    assert histogram.counts[HALF_BINS] == 5
    assert histogram.counts[HALF_BINS - 1] == 2
    assert histogram.counts.sum() == 10
