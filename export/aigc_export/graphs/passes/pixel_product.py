"""A transposed convolution of one pixel as what it is: a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import all_graphs
from aigc_calibration.edit import add_constant
from aigc_calibration.sites import SCOPES, module_path, scope_path

if TYPE_CHECKING:
    import onnx_ir as ir

    from aigc_runtime.core.tensors import Array

__all__ = ["multiply_pixels"]


def multiply_pixels(model: ir.Model) -> ir.Model:
    """Multiply where a transposed convolution has one pixel; changes the model.

    Graph before: `y = ConvTranspose(x, W, b)` with x [N, C, 1, 1] and W [C, M, kh, kw]; after:
    `y = Reshape(MatMul(Reshape(x, [-1, C]), W'), [-1, M, kh, kw]) + b`, with W' [C, M kh kw].

    DCGAN's first layer is one (Radford et al. 2016, figure 1). ONNX Runtime multiplies by the transposed weight and
    adds up overlapping places, of which there are none (1.32; `benchmarks/graph_passes.py` has the figures).

    1. A pixel that is known to be one, one group, no pads, `output_padding`, dilation or `output_shape`; the weight and
       the bias, if there is one, are constants: rewritten, whatever the strides.
    2. A weight that is read elsewhere too, in a body of If, Loop or Scan: left as it is, as every other one.

    Opset 11 and later; bodies are rewritten as well.
    """
    for graph in all_graphs(model):
        for node in list(graph):
            weight = _weight(node)
            if weight is not None:
                _rewrite(graph, node, weight)
    return model


def _weight(node: ir.Node) -> Array | None:
    """The weight of a node that is case 1; None for every other."""
    if node.op_type != "ConvTranspose" or node.domain != "":
        return None
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or x.shape is None or list(x.shape)[2:] != [1, 1]:
        return None
    if weight is None or weight.const_value is None or len(list(weight.uses())) > 1:
        return None
    if bias is not None and bias.const_value is None:
        return None
    given = node.attributes
    plain = all(not any(given.get_ints(name, [])) for name in ("pads", "output_padding"))
    plain = plain and set(given.get_ints("dilations", [1])) == {1} and given.get_int("group", 1) == 1
    if not plain or "output_shape" in given or given.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    return weight.const_value.numpy()


def _rewrite(graph: ir.Graph, node: ir.Node, weight: Array) -> None:
    import onnx_ir as ir

    c, *result_sizes = weight.shape
    result, name, old = node.outputs[0], str(node.name), node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert old is not None
    scopes = dict(node.metadata_props)
    if (module := module_path(node)) != scope_path(node):
        # A normalization was folded into the convolution, and the name of its weight says whose it is; of no product.
        scopes[SCOPES] = repr(["", f"model.{module}", name])
    columns = np.ascontiguousarray(weight.reshape(c, -1))
    flat = add_constant(graph, f"{name}_flat", np.array([-1, c]))
    shape = add_constant(graph, f"{name}_shape", np.array([-1, *result_sizes]))
    node.replace_input_with(1, None)
    graph.initializers.pop(str(old.name), None)
    factors = add_constant(graph, str(old.name), columns)
    row = ir.node("Reshape", [node.inputs[0], flat], name=f"{name}_row")
    product = ir.node("MatMul", [row.outputs[0], factors], name=name)
    image = ir.node("Reshape", [product.outputs[0], shape], name=f"{name}_image")
    made = [row, product, image]
    if bias is not None:
        assert bias.const_value is not None
        added = add_constant(graph, f"{name}_bias", bias.const_value.numpy()[:, None, None])
        made.append(ir.node("Add", [image.outputs[0], added], name=f"{name}_biased"))
    for one in made:
        one.metadata_props.update(scopes)
        one.outputs[0].name, one.outputs[0].type = f"{result.name}_{one.op_type}_{made.index(one)}", result.type
    last, result_name = made[-1].outputs[0], result.name
    graph.insert_before(node, made)
    last.shape = result.shape
    result.replace_all_uses_with(last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    last.name = result_name
