"""Two small changes to a graph that every emitter makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["add_constant", "insert_after"]


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add an initialiser, or replace the one of that name."""
    import onnx_ir as ir

    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.initializers[name] = value
    return value


def insert_after(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Put nodes behind the node that makes a value; at the beginning for an input of the graph."""
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), nodes)
    else:
        graph.insert_after(producer, nodes)
