"""Bits of bfloat16 and e4m3 against an independent library, every one of them."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from aigc_runtime.backends.trt import types as trt_types
from aigc_runtime.backends.trt.types import bf16_bits, bf16_values, fp8_bits, fp8_values, host_type
from aigc_runtime.errors import EngineError

ml_dtypes = pytest.importorskip("ml_dtypes")


def interesting() -> np.ndarray:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    # Every bfloat16, exactly, in the middle of two, and a little to either side of the middle.
    ends = np.array([0x0000, 0x7FFF, 0x8000, 0x8001], np.uint32)
    all_of_them = (np.arange(2**16, dtype=np.uint32)[:, None] << 16 | ends).ravel()
    return np.concatenate([bits, all_of_them]).view(np.float32)


def test_bfloat16_is_rounded_as_ml_dtypes_rounds_it() -> None:
    values = interesting()
    with np.errstate(invalid="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    got = bf16_values(bf16_bits(values))
    np.testing.assert_array_equal(got, want.astype(np.float32))
    assert np.isnan(bf16_values(bf16_bits(np.array([np.nan], np.float32)))).all()


def test_every_bfloat16_survives() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    values = bf16_values(bits)
    np.testing.assert_array_equal(values, bits.view(ml_dtypes.bfloat16).astype(np.float32))
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(bf16_bits(values)[finite], bits[finite])


def test_every_e4m3_is_decoded_and_survives() -> None:
    bits = np.arange(256, dtype=np.uint8)
    values = fp8_values(bits)
    np.testing.assert_array_equal(values, bits.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    np.testing.assert_array_equal(fp8_bits(values), bits)


def test_e4m3_is_rounded_as_ml_dtypes_rounds_it_and_cut_beyond_its_range() -> None:
    values = interesting()
    values = values[np.abs(values) <= 448]
    want = values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(fp8_bits(values), want)
    middle = ((fp8_values(np.arange(126, dtype=np.uint8)) + fp8_values(np.arange(1, 127, dtype=np.uint8))) / 2).astype(
        np.float32
    )
    np.testing.assert_array_equal(fp8_bits(middle), middle.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
    beyond = np.array([449, 1e30, np.inf, -np.inf], np.float32)
    assert fp8_values(fp8_bits(beyond)).tolist() == [448, 448, 448, -448]


def test_shapes_are_kept() -> None:
    for encode, decode in ((bf16_bits, bf16_values), (fp8_bits, fp8_values)):
        for shape in ((), (0, 3), (2, 3, 4)):
            values = np.ones(shape, np.float32)
            assert decode(encode(values)).shape == shape
        turned = np.arange(12, dtype=np.float32).reshape(3, 4).T
        np.testing.assert_array_equal(decode(encode(turned)), turned)


def test_a_type_that_is_unknown_lists_those_that_are() -> None:
    assert host_type("x", "BF16").itemsize == 2
    with pytest.raises(EngineError, match=r"'x' has type FP4.*\nvalid: FLOAT, HALF, BF16"):
        host_type("x", "FP4")


def test_doctests() -> None:
    results = doctest.testmod(trt_types)
    assert (results.failed, results.attempted) == (0, 2)
