"""Nearest-neighbour upsampling as what it is: a choice of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["nearest_indices"]

_COORDINATES: Mapping[str, Callable[[Array, int], Array]] = MappingProxyType(
    {"asymmetric": lambda i, scale: i / scale, "half_pixel": lambda i, scale: (i + 0.5) / scale - 0.5}
)
_ROUNDING: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    }
)


def nearest_indices(node: ir.Node) -> dict[int, Array]:
    """Axis -> int64 [scale * n], the index that each element of the result is copied from.

    By the operator's specification (ONNX, Resize-19) for `mode=nearest` and constant scales that are whole numbers, on
    axes whose length is known. Empty for every other node.
    """
    scales = _scales(node)
    source = node.inputs[0]
    if scales is None or source is None or source.shape is None or len(scales) != len(source.shape):
        return {}
    coordinate = _COORDINATES.get(node.attributes.get_string("coordinate_transformation_mode", "half_pixel"))
    rounded = _ROUNDING.get(node.attributes.get_string("nearest_mode", "round_prefer_floor"))
    axes = {axis: scale for axis, scale in enumerate(scales) if scale != 1}
    lengths = {axis: source.shape[axis] for axis in axes}
    if coordinate is None or rounded is None or not all(isinstance(n, int) for n in lengths.values()):
        return {}
    found = {}
    for axis, scale in axes.items():
        length = int(lengths[axis])  # type: ignore[arg-type]
        positions = coordinate(np.arange(length * scale), scale)
        found[axis] = np.clip(rounded(positions), 0, length - 1).astype(np.int64)
    return found


def _scales(node: ir.Node) -> list[int] | None:
    """The factor of each axis of a nearest-neighbour Resize, where all are whole numbers."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    value = node.inputs[2] if len(node.inputs) == 3 else None
    if value is None or value.const_value is None or "axes" in node.attributes:
        return None
    scales = value.const_value.numpy()
    whole = [int(scale) for scale in scales]
    return whole if all(n == scale and n >= 1 for n, scale in zip(whole, scales, strict=True)) else None
