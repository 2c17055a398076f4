"""Nearest-neighbor upsampling as what it is: a choice of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["by_index", "nearest_indices"]

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


def by_index(graph: ir.Graph, node: ir.Node, quantize: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Nearest-neighbor `Resize` -> `Transpose -> Gather -> Gather -> Transpose`, quantized between them.

    ONNX Runtime keeps codes in channels-last order between 8-bit convolutions: there its Resize takes 2 to 16 times as
    long as two Gathers, columns first, which copy whole pixels (1.32; benchmarks/upsampling.py). The Transposes say
    that order, and it drops them against those of the convolutions.

    Args:
        graph: of the node; changed.
        node: any node; one without `nearest_indices` stays as it is.
        quantize: puts Q and DQ behind a value.

    Returns:
        What the node gave, under the same name.
    """
    import onnx_ir as ir

    result, source = node.outputs[0], node.inputs[0]
    indices = nearest_indices(node)
    if not indices or 1 in indices or source is None or source.shape is None or result.is_graph_output():
        return result
    rank = len(source.shape)
    to_last, to_second = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    steps: list[tuple[str, list[ir.Value], dict[str, Any]]] = [("Transpose", [], {"perm": to_last})]
    for axis in sorted(indices, reverse=True):
        chosen = add_constant(graph, f"{node.name}_axis{axis}", indices[axis])
        steps.append(("Gather", [chosen], {"axis": to_last.index(axis)}))
    steps.append(("Transpose", [], {"perm": to_second}))
    value = source
    for number, (op, operands, attributes) in enumerate(steps):
        if number:
            value = quantize(value)
        made = ir.node(op, [value, *operands], attributes, name=f"{node.name}_step{number}")
        made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, made)
        value = made.outputs[0]
        value.name, value.type = f"{result.name}_step{number}", result.type
    result.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    value.name, value.shape = result.name, result.shape
    return value


def _scales(node: ir.Node) -> list[int] | None:
    """The factor of each axis of a nearest-neighbor Resize, where all are whole numbers."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    value = node.inputs[2] if len(node.inputs) == 3 else None
    if value is None or value.const_value is None or "axes" in node.attributes:
        return None
    scales = value.const_value.numpy()
    whole = [int(scale) for scale in scales]
    return whole if all(n == scale and n >= 1 for n, scale in zip(whole, scales, strict=True)) else None
