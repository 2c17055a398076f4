"""The first samples of many: enough, no part of an order of the user's, and whole batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aigc_calibration.few_samples import FewSamples
from aigc_calibration.onnx_function import OnnxFunction
from aigc_runtime.core.tensors import Array


@pytest.mark.parametrize(("samples", "rows", "read"), [(200, 200, 56), (48, 96, 64), (8, 8, 8), (400, 2000, 504)])
def test_channels_are_those_of_a_quarter_and_not_of_too_few(samples: int, rows: int, read: int) -> None:
    class Many:
        def batches(self, _run: OnnxFunction) -> Iterator[dict[str, Array]]:
            yield from ({"x": np.zeros((8, 1), np.float32)} for _ in range(rows // 8))

    many = Many()
    many.samples, many.rows = samples, rows  # type: ignore[attr-defined]
    few = FewSamples(many)  # type: ignore[arg-type]
    assert sum(len(feeds["x"]) for feeds in few.batches(lambda _: {})) == read
    many.in_order = True  # type: ignore[attr-defined]
    assert sum(len(feeds["x"]) for feeds in few.batches(lambda _: {})) == rows


@pytest.mark.parametrize(
    ("rows", "numbers", "read"), [(24, 1, 24), (24, 4 * 64 * 64, 8), (24, 3 * 224 * 224, 6), (200, 3 * 224 * 224, 50)]
)
def test_rows_of_many_numbers_are_fewer(rows: int, numbers: int, read: int) -> None:
    class Large:
        samples = rows

        def __init__(self) -> None:
            self.rows = rows

        def batches(self, _run: OnnxFunction) -> Iterator[dict[str, Array]]:
            yield from ({"x": np.zeros((1, numbers), np.float32)} for _ in range(rows))

    few = FewSamples(Large())
    assert sum(len(feeds["x"]) for feeds in few.batches(lambda _: {})) == read
