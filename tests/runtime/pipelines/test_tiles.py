"""Tiles cover every pixel once, from far enough inside of every cut edge."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from aigc_runtime.pipelines.tiles import plan_spans, reflected


@given(st.data())
def test_every_pixel_is_used_once_and_far_from_every_cut(data: st.DataObject) -> None:
    unit = data.draw(st.integers(1, 4))
    tile = unit * data.draw(st.integers(1, 12))
    overlap = data.draw(st.integers(0, (tile - unit) // 2))
    length = tile + unit * data.draw(st.integers(0, 40))
    spans = plan_spans(length, tile, overlap, unit)
    used = np.concatenate([np.arange(span.first, span.last) for span in spans])
    np.testing.assert_array_equal(used, np.arange(length))
    for span in spans:
        assert span.start % unit == 0
        assert 0 <= span.start <= length - tile
        assert span.first - span.start >= (overlap if span.start > 0 else 0)
        assert span.start + tile - span.last >= (overlap if span.start + tile < length else 0)


@given(st.integers(1, 9), st.integers(0, 60))
def test_reflection_is_numpys(length: int, more: int) -> None:
    np.testing.assert_array_equal(reflected(length, length + more), np.pad(np.arange(length), (0, more), "reflect"))
