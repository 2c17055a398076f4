"""A computed constant has the numbers of what it follows from, and keeps none of them where they are many."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.computed import KEPT_BYTES, computed


@pytest.mark.parametrize("rows", [2, KEPT_BYTES // 16])
def test_numbers_are_those_of_the_function(rows: int) -> None:
    numbers = np.arange(4 * rows, dtype=np.float32).reshape(4, rows)
    calls = []

    def transposed() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        calls.append(1)
        return numbers.T

    tensor = computed("w", transposed, shape=(rows, 4), dtype=ir.DataType.FLOAT)
    kept = numbers.nbytes < KEPT_BYTES
    assert len(calls) == kept
    assert (tensor.name, tuple(tensor.shape), tensor.dtype, tensor.nbytes) == (
        "w",
        (rows, 4),
        ir.DataType.FLOAT,
        numbers.nbytes,
    )
    np.testing.assert_array_equal(tensor.numpy(), numbers.T)
    assert tensor.tobytes() == numbers.T.tobytes()
    assert len(calls) == (1 if kept else 2)
