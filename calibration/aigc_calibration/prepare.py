"""Make constants of what is constant, and plain products of what is written in other ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import inline_functions, make_names_unique, own_parts
from aigc_calibration.computed import sizes_of
from aigc_calibration.edit import add_constant
from aigc_calibration.sites import SITE_OPS
from aigc_calibration.transposed import transposed
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["copy_graph", "prepare"]


def copy_graph(model: ir.Model) -> ir.Model:
    """Copy a graph, its subgraphs and functions included.

    Constants are shared, which is safe as long as they are replaced and never written to.
    """
    own: ir.Model = model.clone()
    own_parts(own)
    return own


def prepare(model: ir.Model) -> ir.Model:
    """A copy of the graph in which every weight of a site is an initializer that only that site reads.

    Only products of the main graph are sites; those inside bodies of If, Loop and Scan stay as they are, and read the
    weights that they read before. Any opset.

    0. Functions -> their nodes; every node and value gets a name of its own; a weight that a Constant node gives
       -> an initializer.
    1. `MatMul(x, Transpose(W))` -> `MatMul(x, W')` with the constant W' = W transposed: an output layer tied to the
       embedding is a site of its own; `lookups` joins the two again where they have the same codes.
    2. A weight that several nodes read -> one copy for each site.
    3. `Gemm(x, W, b, alpha, beta)` with a constant W -> `Gemm(x, alpha W, beta b)`: an engine's 8-bit Gemm and its
       products in blocks know neither. A constant b of another shape than [N] takes it, or where it differs from row to
       row becomes `Add(Gemm(x, alpha W), beta b)`, as one does that is no constant and has a factor.
    """
    import onnx_ir as ir

    model = inline_functions(copy_graph(model))
    make_names_unique(model)
    initializers = model.graph.initializers
    for node in list(model.graph):
        if node.op_type not in SITE_OPS or node.inputs[1] is None:
            continue
        for index, constant in enumerate(node.inputs[1:], start=1):
            _lift(model.graph, node, index, constant)
        weight = node.inputs[1]
        producer = weight.producer()
        if producer is not None and producer.op_type == "Transpose" and producer.inputs[0] is not None:
            source = producer.inputs[0].const_value
            if source is None:
                continue
            given = producer.attributes["perm"].as_ints() if "perm" in producer.attributes else None
            tensor = transposed(f"{node.name}_weight", source, given)
        elif weight.const_value is not None and len(list(weight.uses())) > 1:
            tensor = ir.tensor(weight.const_value.numpy(), name=f"{node.name}_weight")
        else:
            continue
        name = str(tensor.name)
        own = ir.Value(name=name, const_value=tensor)
        own.shape, own.dtype = ir.Shape(sizes_of(tensor)), ir.DataType.FLOAT
        initializers[name] = own
        node.replace_input_with(1, own)
        if producer is not None and not list(producer.outputs[0].uses()) and not producer.outputs[0].is_graph_output():
            model.graph.remove(producer, safe=True)
    for node in list(model.graph):
        if node.op_type == "Gemm" and node.inputs[1] is not None and node.inputs[1].const_value is not None:
            _plain_gemm(model.graph, node)
    return model


def _lift(graph: ir.Graph, node: ir.Node, index: int, value: ir.Value | None) -> None:
    """The end of case 0: what a Constant node gives is no constant of the graph yet."""
    import onnx_ir as ir

    producer = None if value is None or value.const_value is not None else value.producer()
    if value is None or producer is None or producer.op_type != "Constant":
        return
    given = producer.attributes.get("value")  # whose tensor `get_const_tensor` would give another name
    tensor = ir.convenience.get_const_tensor(value) if given is None else given.as_tensor()
    if tensor is None:
        return
    node.replace_input_with(index, add_constant(graph, f"{node.name}_input_{index}", tensor.numpy()))
    if not list(producer.outputs[0].uses()) and not producer.outputs[0].is_graph_output():
        graph.remove(producer, safe=True)


def _plain_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Case 3; the weight is the node's own."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    values = weight.const_value.numpy()
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    if alpha != 1:
        _set_constant(graph, node, 1, f"{node.name}_weight", values * np.float32(alpha))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return
    columns = values.shape[0 if node.attributes.get_int("transB", 0) else 1]
    if bias.const_value is None:
        if beta != 1:
            _add_after(graph, node, bias, beta)
        return
    constant = bias.const_value.numpy()
    if constant.size > 1 and constant.shape[-1:] != (columns,):  # one number for a whole row
        constant = np.broadcast_to(constant, (len(constant), columns))
    if constant.size not in {1, columns}:
        _set_constant(graph, node, 2, f"{node.name}_bias", constant * np.float32(beta))
        _add_after(graph, node, node.inputs[2], 1.0)
    elif beta != 1 or constant.shape != (columns,):
        vector = np.broadcast_to(constant.reshape(-1) * np.float32(beta), (columns,))
        _set_constant(graph, node, 2, f"{node.name}_bias", vector)


def _set_constant(graph: ir.Graph, node: ir.Node, index: int, name: str, values: Array) -> None:
    old = node.inputs[index]
    node.replace_input_with(index, None)
    if old is not None and not list(old.uses()):
        del graph.initializers[str(old.name)]
    node.replace_input_with(index, add_constant(graph, name, np.ascontiguousarray(values)))


def _add_after(graph: ir.Graph, node: ir.Node, bias: ir.Value | None, factor: float) -> None:
    """`Gemm(x, W, b)` -> `Add(Gemm(x, W), factor b)`, under the result's own name."""
    import onnx_ir as ir

    result, steps = node.outputs[0], []
    if factor != 1:
        number = add_constant(graph, f"{node.name}_beta", np.array(factor, dtype=np.float32))
        steps.append(ir.node("Mul", [bias, number], name=f"{node.name}_scaled_bias"))
        bias = steps[-1].outputs[0]
        bias.name = f"{node.name}_scaled_bias"
    node.resize_inputs(2)
    added = ir.node("Add", [result, bias], name=f"{node.name}_add")
    new = added.outputs[0]
    new.shape, new.type = result.shape, result.type
    steps.append(added)
    graph.insert_after(node, steps)
    for reader, index in list(result.uses()):
        if reader is not added:
            reader.replace_input_with(index, new)
    for index, output in enumerate(graph.outputs):
        if output is result:
            graph.outputs[index] = new
    result.name, new.name = f"{node.name}_product", result.name
