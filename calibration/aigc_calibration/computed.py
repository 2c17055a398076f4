"""Constants that are computed anew wherever they are read, so that no copy of a large weight is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KEPT_BYTES", "computed", "sizes_of"]

KEPT_BYTES = 2**20
"""A smaller constant is computed once and kept."""


def sizes_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The sizes of a constant, whose numbers are not read for it."""
    return tuple(size for size in tensor.shape if isinstance(size, int))


def computed(name: str, make: Callable[[], Array], *, shape: Sequence[int], dtype: ir.DataType) -> ir.TensorProtocol:
    """Make a constant of numbers that follow from others.

    Args:
        name: of the constant.
        make: gives its numbers, the same every time; what it reads must not change.
        shape: of what it gives.
        dtype: of what it gives.
    """
    import onnx_ir as ir

    def tensor() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(make()), dtype=dtype, name=name)

    lazy = ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name)
    return lazy if lazy.nbytes >= KEPT_BYTES else tensor()
