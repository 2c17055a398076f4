"""The sets of numbers that a quantized tensor can hold: signed integers and eight-bit floating point.

A code c of scale s stands for the number c * s, so zero is always exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["GRIDS", "Grid", "GridName"]

GridName = Literal["int8", "int4", "fp8"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The numbers that a quantized tensor can hold.

    Attributes:
        name: key of `GRIDS`.
        bits: of a code.
        qmax: the code that a range is fitted to. int8 leaves out -128, so that both signs reach equally far; with its
            few codes int4 cannot spare -8 (one code in sixteen).
        round_codes: numbers in units of the scale -> the nearest codes, saturating, as float32.
    """

    name: GridName
    bits: int
    qmax: float
    round_codes: Callable[[Array], Array]

    def scale_for(self, amax: float) -> float:
        """Compute the scale whose largest code stands for `amax`, rounded to float32.

        >>> GRIDS["int8"].scale_for(127.0)
        1.0
        """
        scale = np.float32(amax) / np.float32(self.qmax)
        return float(max(scale, np.finfo(np.float32).tiny))

    def round_trip(self, values: Array, scale: Array | float) -> Array:
        """Quantize and dequantize `values` as an engine does; float32.

        >>> GRIDS["int8"].round_trip(np.array([0.4, 0.6, 300.0]), 1.0).tolist()
        [0.0, 1.0, 127.0]
        """
        scale = np.asarray(scale, dtype=np.float32)
        result = self.round_codes(np.asarray(values, dtype=np.float32) / scale)
        result *= scale
        return result


def _integers(low: int, high: int) -> Callable[[Array], Array]:
    def round_codes(x: Array) -> Array:
        result: Array = np.asarray(np.rint(x))  # half to even, as QuantizeLinear does
        np.clip(result, low, high, out=result)
        return result

    return round_codes


def _e4m3(x: Array) -> Array:
    """OCP 8-bit floating point, E4M3 (Micikevicius et al. 2022, "FP8 formats for deep learning", table 1)."""
    import ml_dtypes

    return np.clip(x, -448.0, 448.0).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


GRIDS: Mapping[GridName, Grid] = MappingProxyType(
    {
        "int8": Grid(name="int8", bits=8, qmax=127.0, round_codes=_integers(-127, 127)),
        "int4": Grid(name="int4", bits=4, qmax=7.0, round_codes=_integers(-8, 7)),
        "fp8": Grid(name="fp8", bits=8, qmax=448.0, round_codes=_e4m3),
    }
)
