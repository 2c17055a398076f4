"""Codes end where none of them alone could make the products more exact."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_calibration.code_descent import descend_codes
from aigc_calibration.gptq import gptq
from aigc_calibration.grids import GRIDS
from aigc_calibration.hessian import product_error
from aigc_calibration.weights import round_to_blocks
from aigc_runtime.core.tensors import Array

INT4 = GRIDS["int4"]
ROWS, COLUMNS, BLOCK = 70, 9, 32


@pytest.fixture
def moments(rng: np.random.Generator) -> Array:
    mix = rng.standard_normal((12, ROWS))
    x = rng.standard_normal((2000, 12)) @ mix + 0.1 * rng.standard_normal((2000, ROWS))
    return np.asarray(x.T @ x / len(x))


@pytest.fixture
def start(rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """A weight, the nearest codes, the scale and the zero point of each."""
    weight = (rng.standard_normal((ROWS, COLUMNS)) + 0.5).astype(np.float32)
    found = round_to_blocks("w", weight, INT4, BLOCK, zero_points=True)
    assert found.zeros is not None
    wide = (np.repeat(one.astype(np.float64), BLOCK, axis=0)[:ROWS] for one in (found.scales, found.zeros))
    return weight.astype(np.float64), found.codes, *wide  # type: ignore[return-value]


def error(weight: Array, codes: Array, steps: Array, zeros: Array, moments: Array) -> float:
    return product_error(weight, (codes - zeros) * steps, moments)


@pytest.mark.parametrize("sweeps", [1, 2])
def test_every_sweep_lowers_the_error(sweeps: int, moments: Array, start: tuple[Array, Array, Array, Array]) -> None:
    weight, codes, steps, zeros = start
    before = descend_codes(weight, moments, codes, steps, zeros, INT4, sweeps=sweeps - 1)
    after = descend_codes(weight, moments, codes, steps, zeros, INT4, sweeps=sweeps)
    assert error(weight, after, steps, zeros, moments) < 0.99 * error(weight, before, steps, zeros, moments)
    assert after.dtype == codes.dtype
    assert -8 <= after.min() <= after.max() <= 7


def test_no_sweep_changes_nothing(moments: Array, start: tuple[Array, Array, Array, Array]) -> None:
    weight, codes, steps, zeros = start
    np.testing.assert_array_equal(descend_codes(weight, moments, codes, steps, zeros, INT4, sweeps=0), codes)


def test_in_the_end_no_other_code_alone_is_better(moments: Array, start: tuple[Array, Array, Array, Array]) -> None:
    """Every one of the sixteen codes is tried at every place."""
    weight, codes, steps, zeros = start
    found = descend_codes(weight, moments, codes, steps, zeros, INT4, sweeps=60)
    np.testing.assert_array_equal(
        descend_codes(weight, moments, found, steps, zeros, INT4, sweeps=1), found
    )  # fmt: skip
    least = error(weight, found, steps, zeros, moments)
    for row in range(0, ROWS, 7):
        for column in range(COLUMNS):
            for code in range(-8, 8):
                other = found.copy()
                other[row, column] = code
                assert error(weight, other, steps, zeros, moments) >= least * (1 - 1e-12)


def test_gptq_descends_in_four_bits_alone(moments: Array, start: tuple[Array, Array, Array, Array]) -> None:
    weight = start[0].astype(np.float32)
    for grid, sweeps in ((GRIDS["int4"], 2), (GRIDS["int8"], 0)):
        default, told, once = (
            gptq([("w", weight)], moments, grid, block=BLOCK, sweeps=count)[0] for count in (None, sweeps, 0)
        )
        np.testing.assert_array_equal(default.codes, told.codes)
        errors = [product_error(weight, one.dequantize(), moments) for one in (default, once)]
        assert errors[0] < 0.98 * errors[1] if sweeps else errors[0] == errors[1]


def test_parts_are_rounded_as_the_whole(
    moments: Array, start: tuple[Array, Array, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = start[0].astype(np.float32)
    (whole,) = gptq([("w", weight)], moments, INT4, block=BLOCK, zero_points=True)
    monkeypatch.setattr("aigc_calibration.gptq.PART", 4 * ROWS)
    (parts,) = gptq([("w", weight)], moments, INT4, block=BLOCK, zero_points=True)
    np.testing.assert_array_equal(whole.codes, parts.codes)
    assert whole.zeros is not None
    np.testing.assert_array_equal(whole.zeros, np.asarray(parts.zeros))
