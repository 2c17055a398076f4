"""A weight that a graph turns round before it reads it is stored as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_graphs
from aigc_calibration.computed import computed, sizes_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["transpose_weights", "transposed"]


def transpose_weights(model: ir.Model) -> ir.Model:
    """Store weights as they are read; changes the model.

    Graph before: `y = MatMul(x, Transpose(W))`; after: `y = MatMul(x, W')` with the constant W' = W transposed, under
    the name of what Transpose gave. PyTorch's linear layers are captured so, and an engine that runs such a graph as it
    stands would hold its weights twice.

    A weight that something else reads as well, such as an output layer that shares its weights with an embedding, stays
    as it is: the file would hold it twice.
    """
    for graph in all_graphs(model):
        for node in list(graph):
            if node.op_type == "Transpose" and node.domain == "":
                _store(graph, node)
    return model


def _store(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.const_value is None or graph.initializers.get(str(source.name)) is not source:
        return
    if len(list(source.uses())) > 1 or source.is_graph_output() or result.is_graph_output():
        return
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    tensor = transposed(str(result.name), source.const_value, order)
    stored = ir.Value(
        name=result.name, const_value=tensor, shape=ir.Shape(sizes_of(tensor)), type=ir.TensorType(tensor.dtype)
    )
    ir.convenience.replace_all_uses_with(result, stored)
    graph.remove(node, safe=True)
    del graph.initializers[str(source.name)]
    graph.initializers[str(stored.name)] = stored


def transposed(name: str, source: ir.TensorProtocol, order: Sequence[int] | None) -> ir.TensorProtocol:
    """The constant of another order of its axes, computed where it is read; None turns them round."""
    sizes = sizes_of(source)
    axes = tuple(order) if order is not None else tuple(reversed(range(len(sizes))))
    shape = [sizes[axis] for axis in axes]
    return computed(name, lambda: source.numpy().transpose(axes), shape=shape, dtype=source.dtype)
