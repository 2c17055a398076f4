"""Arrays in files: numpy reads what is written, and a header cannot ask for more than the file holds."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest

from aigc_runtime.core.tensors import DTYPES
from aigc_runtime.errors import BundleError
from aigc_runtime.io.npy import read_npy, write_npy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 4)])
def test_round_trip_and_numpy_agree(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, size=shape).astype(dtype)
    data = write_npy(array)
    for read in (read_npy(data), np.load(io.BytesIO(data), allow_pickle=False)):
        assert read.dtype == np.dtype(dtype)
        assert read.shape == shape
        np.testing.assert_array_equal(read, array)
    assert read_npy(data).dtype.isnative
    assert read_npy(data).flags.writeable


def test_other_orders_are_written_in_c_order_and_read_in_both() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(read_npy(write_npy(array.astype(">f4"))), array)
    assert write_npy(np.asfortranarray(array)) == write_npy(array)
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asfortranarray(array), version=(1, 0))
    np.testing.assert_array_equal(read_npy(out.getvalue()), array)


def with_header(text: str, body: bytes = b"") -> bytes:
    header = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .npy file"),
        (b"PK\x03\x04", "not a .npy file"),
        (write_npy(np.zeros(2, np.float32)).replace(b"\x01\x00", b"\x02\x00", 1), "not a .npy file of version 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff", "header of 65535 bytes"),
        (with_header(GOOD)[:20], "header of"),
        (with_header(GOOD, b"\0" * 7), "holds 7 bytes, its header announces 8"),
        (with_header(GOOD, b"\0" * 9), "holds 9 bytes, its header announces 8"),
        (with_header(GOOD.replace("(2,)", "(2**40,)")), "header that cannot be read"),
        (with_header(GOOD.replace("(2,)", "(999999999999999,)"), b"\0" * 8), "its header announces 3,999,999"),
        (with_header(GOOD.replace("(2,)", "(-1, -2)"), b"\0" * 8), r"has shape \(-1, -2\)"),
        (with_header(GOOD.replace("(2,)", "(True, 2)"), b"\0" * 8), "has shape"),
        (with_header(GOOD.replace("(2,)", f"({'1,' * 17})")), "has shape"),
        (with_header(GOOD.replace("(2,)", "[2]"), b"\0" * 8), r"has shape \[2\]"),
        (with_header(GOOD.replace("'<f4'", "'|O'"), b"\0" * 16), "element type object"),
        (with_header(GOOD.replace("'<f4'", "'>f4'"), b"\0" * 8), "element type big-endian float32"),
        (with_header(GOOD.replace("'<f4'", "[('a', '<f4')]"), b"\0" * 8), "cannot be read|element type"),
        (with_header(GOOD.replace("False", "0"), b"\0" * 8), "element type"),
        (with_header("__import__('os')"), "cannot be read"),
        (with_header("[" * 3000), "cannot be read"),
        (with_header("{}"), "cannot be read"),
        (with_header("{'descr': 1"), "cannot be read"),
        (with_header("\xe9"), "cannot be read"),
    ],
)
def test_bad_files(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_npy(data, what="ref.npy")


def test_every_cut_and_random_damage_is_an_error_or_an_array() -> None:
    data = write_npy(np.arange(12, dtype=np.int64).reshape(3, 4))
    for end in range(len(data)):
        with pytest.raises(BundleError):
            read_npy(data[:end])
    rng = random.Random(0)
    for _ in range(5_000):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert read_npy(bytes(damaged)).nbytes <= len(data)
        except BundleError:
            continue
