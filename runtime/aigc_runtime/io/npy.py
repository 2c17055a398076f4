"""Single arrays as .npy bytes (NumPy enhancement proposal 1), read with every length checked first.

`numpy.load` would allocate what the header asks for; here the header must agree with the number of bytes.
"""

from __future__ import annotations

import ast
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from aigc_runtime.core.tensors import DTYPES, Array
from aigc_runtime.errors import AigcError, BundleError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish import atomic_file

__all__ = ["MAX_HEADER_BYTES", "read_npy", "write_npy", "write_npy_rows"]

_MAGIC = b"\x93NUMPY\x01\x00"
MAX_HEADER_BYTES = 4096
_MAX_RANK = 16


def write_npy(array: Array) -> bytes:
    """An array as .npy version 1.0 bytes, C order, little-endian."""
    out = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(
        out, np.ascontiguousarray(little).reshape(array.shape), version=(1, 0), allow_pickle=False
    )
    return out.getvalue()


def write_npy_rows(path: Path | str, rows: Iterable[Array], shape: tuple[int, ...]) -> None:
    """Write an array of float32 row by row, as the rows come; the file appears whole or not at all.

    Args:
        path: the file to create or replace.
        rows: of `shape[1:]` each.
        shape: of the whole array.

    Raises:
        OutputError: no permission, no space for the whole. A file that was there stays as it was.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with atomic_file(path, needed_bytes=header.tell() + 4 * math.prod(shape)) as file:
        file.write(header.getvalue())
        for row in rows:
            file.write(np.ascontiguousarray(row, dtype="<f4").tobytes())


def read_npy(
    data: bytes, *, what: str = "array", error: type[AigcError] = BundleError, dtypes: Sequence[str] = tuple(DTYPES)
) -> Array:
    """Read .npy version 1.0 bytes.

    Args:
        data: the whole file.
        what: its name, for messages.
        error: the type to raise.
        dtypes: element types that are taken, of `DTYPES`.

    Raises:
        AigcError: of type `error`; not this format, another element type, or a size that disagrees with the
            header.
    """
    if data[: len(_MAGIC)] != _MAGIC or len(data) < len(_MAGIC) + 2:
        raise error(f"{what} is not a .npy file of version 1.0")
    start = len(_MAGIC) + 2
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - start):
        raise error(
            f"{what} has a header of {length} bytes", hint=f"at most {MAX_HEADER_BYTES}, and not beyond the file"
        )
    try:
        header = ast.literal_eval(data[start : start + length].decode("ascii"))
        dtype_text, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as err:
        raise error(f"{what} has a header that cannot be read: {err!a:.200}") from err
    allowed = {np.dtype(name).newbyteorder("<").str: name for name in dtypes}
    if not isinstance(dtype_text, str) or dtype_text not in allowed or not isinstance(fortran, bool):
        raise error(f"{what} has element type {_type_name(dtype_text)}", hint=f"valid: {', '.join(dtypes)}")
    if not isinstance(shape, tuple) or len(shape) > _MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise error(f"{what} has shape {shape!r:.200}")
    dtype, body = np.dtype(dtype_text), data[start + length :]
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise error(f"{what} holds {len(body):,} bytes, its header announces {expected:,}")
    try:
        array = np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as err:  # one size is 0, another beyond what numpy counts
        raise error(f"{what} has shape {shape!r:.200}", hint="the file is damaged: get it again") from err
    return array.astype(np.dtype(allowed[dtype_text]))


def _type_name(descr: object) -> str:
    """An element type's name as numpy's users know it: `float64`, not `<f8`."""
    if not isinstance(descr, str) or not re.fullmatch(r"[<>|=][biufcSUVO]\d{0,4}", descr, re.ASCII):
        return shown(descr)
    if descr[1] in "US":
        return "text"
    order = "big-endian " if descr[0] == ">" else ""
    try:
        return order + np.dtype(descr).name
    except TypeError:
        return shown(descr)
