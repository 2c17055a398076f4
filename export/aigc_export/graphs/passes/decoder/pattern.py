"""Reading a graph backwards: which node made a value, and what is known of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "MICROSOFT",
    "constant_of",
    "equal_to",
    "is_closed",
    "made_by",
    "permutes",
    "reads_with_number",
    "scalar_of",
    "sizes_known",
]

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that made a value, if it is one of ONNX's operators of that type; else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def constant_of(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None for a value that is computed or given."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The number of a constant that holds a single one; else None."""
    found = constant_of(value)
    return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None


def permutes(transpose: ir.Node, *axes: int) -> bool:
    """Whether a Transpose puts exactly these axes in this order."""
    return tuple(transpose.attributes.get_ints("perm", ())) == axes


def reads_with_number(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """What a node of two inputs reads beside a number, and the number: of `x + 2` and `2 + x` alike (x, 2.0)."""
    if node is None or len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        number = scalar_of(other)
        if value is not None and number is not None and value.const_value is None:
            return value, number
    return None


def sizes_known(value: ir.Value | None) -> tuple[int | str, ...] | None:
    """The sizes of a value, numbers or names; None where one of them is not known."""
    import onnx_ir as ir

    if value is None or value.shape is None:
        return None
    sizes = [size.value if isinstance(size, ir.SymbolicDim) else size for size in value.shape]
    return None if any(size is None for size in sizes) else tuple(size for size in sizes if size is not None)


def is_closed(nodes: Collection[ir.Node], results: Collection[ir.Value]) -> bool:
    """Whether nothing outside of these nodes reads what they compute, but for the results."""
    inside = {id(node) for node in nodes}
    kept = {id(value) for value in results}
    return all(
        id(value) in kept or (not value.is_graph_output() and all(id(reader) in inside for reader, _ in value.uses()))
        for node in nodes
        for value in node.outputs
    )


def equal_to(value: ir.Value | None, numbers: Collection[int]) -> bool:
    """Whether a value is a constant of exactly these integers."""
    found = constant_of(value)
    return found is not None and np.array_equal(found.reshape(-1), np.array(list(numbers)))
