"""Products of one value with several weights as a single product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_calibration.packed import note_packed
from aigc_export.graphs.passes.decoder.pattern import MICROSOFT
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["pack_products"]


def pack_products(model: ir.Model) -> ir.Model:
    """Multiply a value by several weights at once; changes the model.

    Graph before: `q = MatMul(x, Q)`, `k = MatMul(x, K)`; after: `q, k = Split(MatMul(x, [Q K]))`.

    Every result is computed from the same numbers as before. One product of many columns keeps all threads busy where
    several small ones each wait for the last thread, and reads x once.

    1. MatMul of float constants with two axes: concatenated along the outputs.
    2. MatMulNBits of equal bits, block size and accuracy: codes, scales, zero points and biases of a weight follow
       those of the one before, since all of them are stored output by output.
    3. A constant that something else reads, too, such as an embedding that is tied to the output layer: that product
       stays as it is, since the weight would be stored twice.
    4. Products with weights that are no constants, of different kinds, or with a permutation (`g_idx`): as they are.

    Weights are concatenated when they are written, one after the other, and never all held at once. The names of the
    constants that became one are noted at the product (`aigc_calibration.packed`). Any opset from 18; the main graph.
    """
    for group in list(_groups(model.graph)):
        _pack(model.graph, group)
    return model


def _groups(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Products that can be one: of the same value, of one kind."""
    found: dict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
    for node in graph:
        kind = _kind(node)
        if kind is not None:
            found[(id(node.inputs[0]), *kind)].append(node)
    yield from (nodes for nodes in found.values() if len(nodes) > 1)


def _kind(node: ir.Node) -> tuple[object, ...] | None:
    """What products that become one have in common; None for a node that is no such product."""
    is_blocks = node.op_type == "MatMulNBits" and node.domain == MICROSOFT
    if not is_blocks and (node.op_type != "MatMul" or node.domain not in ("", "ai.onnx")):
        return None
    constants = node.inputs[1:]
    if node.outputs[0].shape is None or not all(value is None or _is_own_constant(value) for value in constants):
        return None
    weight = constants[0]
    if weight is None or weight.const_value is None:
        return None
    if not is_blocks:
        return ("MatMul", weight.const_value.dtype) if len(weight.const_value.shape) == 2 else None
    if len(constants) > 3 and constants[3] is not None:
        return None
    attributes = sorted((name, one.value) for name, one in node.attributes.items() if name != "N")
    return ("MatMulNBits", tuple(attributes), tuple(value is not None for value in constants))


def _is_own_constant(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_output() and len(list(value.uses())) == 1


def _pack(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    import onnx_ir as ir

    first = nodes[0]
    is_blocks = first.op_type == "MatMulNBits"
    name = f"{first.name}_packed"
    inputs: list[ir.Value | None] = [first.inputs[0]]
    for index, value in enumerate(first.inputs[1:], start=1):
        columns = [node.inputs[index] for node in nodes]
        inputs.append(
            None if value is None else _joined(graph, f"{name}_input_{index}", columns, 0 if is_blocks else 1)
        )
    widths = [int(node.outputs[0].shape[-1]) for node in nodes]  # type: ignore[index, arg-type]
    attributes: dict[str, ir.Attr | int] = dict(first.attributes)
    if is_blocks:
        attributes["N"] = sum(widths)
    product = ir.node(first.op_type, inputs, attributes, domain=first.domain, name=name)
    sizes = add_constant(graph, f"{name}_sizes", np.array(widths, dtype=np.int64))
    split = ir.node("Split", [product.outputs[0], sizes], {"axis": -1}, num_outputs=len(nodes), name=f"{name}_split")
    whole, result = product.outputs[0], first.outputs[0]
    assert result.shape is not None
    whole.name, whole.type = f"{name}_value", result.type
    whole.shape = ir.Shape([*list(result.shape)[:-1], sum(widths)])
    note_packed(product, [str(node.inputs[1].name) for node in nodes if node.inputs[1] is not None])
    graph.insert_before(first, [product, split])
    for node, new in zip(nodes, split.outputs, strict=True):
        old = node.outputs[0]
        new.shape, new.type, old_name = old.shape, old.type, old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        constants = [value for value in node.inputs[1:] if value is not None]
        graph.remove(node, safe=True)
        new.name = old_name
        for constant in constants:
            del graph.initializers[str(constant.name)]


def _joined(graph: ir.Graph, name: str, values: Sequence[ir.Value | None], axis: int) -> ir.Value:
    """The constant that holds these, one after the other along an axis; it is made when it is written."""
    import onnx_ir as ir

    tensors = [value.const_value for value in values if value is not None and value.const_value is not None]
    sizes = list(tensors[0].shape.numpy())
    sizes[axis] = sum(tensor.shape.numpy()[axis] for tensor in tensors)
    whole = partial(_concatenated, tensors, axis, name)
    return add_constant(graph, name, ir.LazyTensor(whole, dtype=tensors[0].dtype, shape=ir.Shape(sizes), name=name))


def _concatenated(tensors: Sequence[ir.TensorProtocol], axis: int, name: str) -> ir.TensorProtocol:
    import onnx_ir as ir

    arrays: list[Array] = [tensor.numpy() for tensor in tensors]
    return ir.Tensor(np.ascontiguousarray(np.concatenate(arrays, axis=axis)), name=name)
