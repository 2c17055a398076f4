"""Element types of an engine's inputs and outputs, and how they lie in host memory.

numpy has no bfloat16 and no 8-bit float. Where an engine takes one, the caller still passes and gets float32, and the
bits are made here: bfloat16 as uint16, e4m3 as uint8. Carried state is never converted: it does not leave the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError

__all__ = ["HostType", "bf16_bits", "bf16_values", "fp8_bits", "fp8_values", "host_type"]


@dataclass(frozen=True, kw_only=True)
class HostType:
    """One element type.

    Attributes:
        name: as TensorRT calls it.
        dtype: what a manifest calls it, and the caller's arrays are.
        storage: of the bits in memory, on the host and on the device.
        encode: the caller's array -> bits; None where they are the same.
        decode: bits -> the caller's array; None where they are the same.
    """

    name: str
    dtype: str
    storage: str
    encode: Callable[[Array], Array] | None = None
    decode: Callable[[Array], Array] | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return np.dtype(self.storage).itemsize


def bf16_bits(values: Array) -> Array:
    """float32 -> the bits of bfloat16 as uint16, rounded to the nearest, ties to even; NaN stays NaN.

    >>> [hex(b) for b in bf16_bits(np.array([1.0, -2.5, np.inf], np.float32))]
    ['0x3f80', '0xc020', '0x7f80']
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    quiet = ((bits >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    result: Array = np.where(np.isnan(values), quiet, rounded).reshape(np.shape(values))
    return result


def bf16_values(bits: Array) -> Array:
    """The bits of bfloat16 as uint16 -> float32, exactly."""
    result: Array = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return result


def _fp8_table() -> Array:
    """The values of e4m3's 127 finite codes that are not negative (OCP FP8, 2023: bias 7, no infinity)."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    table: Array = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal).astype(np.float32)
    return table


_FP8 = _fp8_table()


def fp8_bits(values: Array) -> Array:
    """float32 -> the bits of e4m3 as uint8, to the nearest, ties to even, larger ones cut to 448; NaN stays NaN.

    >>> [hex(b) for b in fp8_bits(np.array([1.0, -448.0, 1e9, 0.0], np.float32))]
    ['0x38', '0xfe', '0x7e', '0x0']
    """
    size = np.abs(np.asarray(values, dtype=np.float32)).astype(np.float64)
    above = np.minimum(np.searchsorted(_FP8, size), 126)
    below = np.maximum(above - 1, 0)
    up, down = _FP8[above].astype(np.float64) - size, size - _FP8[below].astype(np.float64)
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    code = np.where(np.isnan(values), 127, code)
    result: Array = (code | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)
    return result


def fp8_values(bits: Array) -> Array:
    """The bits of e4m3 as uint8 -> float32, exactly."""
    known = np.append(_FP8, np.float32(np.nan))
    result: Array = np.where(bits & 0x80, -known[bits & 0x7F], known[bits & 0x7F]).astype(np.float32)
    return result


_TYPES = {
    known.name: known
    for known in (
        HostType(name="FLOAT", dtype="float32", storage="float32"),
        HostType(name="HALF", dtype="float16", storage="float16"),
        HostType(name="BF16", dtype="float32", storage="uint16", encode=bf16_bits, decode=bf16_values),
        HostType(name="FP8", dtype="float32", storage="uint8", encode=fp8_bits, decode=fp8_values),
        HostType(name="INT64", dtype="int64", storage="int64"),
        HostType(name="INT32", dtype="int32", storage="int32"),
        HostType(name="INT8", dtype="int8", storage="int8"),
        HostType(name="UINT8", dtype="uint8", storage="uint8"),
        HostType(name="BOOL", dtype="bool", storage="bool"),
    )
}


def host_type(tensor: str, name: str) -> HostType:
    """The type that TensorRT calls `name`.

    Raises:
        EngineError: one that cannot cross the boundary of an engine here, such as 4 bits.
    """
    if name not in _TYPES:
        raise EngineError(
            f"the engine's {tensor!r} has type {name}, which this runtime cannot pass",
            hint=f"valid: {', '.join(_TYPES)}; export with another type at the graph's inputs and outputs",
        )
    return _TYPES[name]
