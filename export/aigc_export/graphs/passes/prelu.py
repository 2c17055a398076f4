"""Write PReLU as operators that engines on processors have fast kernels for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import all_graphs
from aigc_calibration.edit import add_constant

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["spell_out_prelu"]


LARGEST_SLOPE = 2.0
"""Beyond it `a x` and `(1 - a) x` cancel each other's digits."""


def spell_out_prelu(model: ir.Model) -> ir.Model:
    """Write PReLU in plain arithmetic; changes the model.

    Graph before: `y = PRelu(x, a)`; after: `y = Add(Mul(x, a), Mul(Relu(x), 1 - a))`.

    It is the same function (He et al. 2015, eq. 1), within a few roundings of x. ONNX Runtime's PRelu of one slope for
    each channel takes 10 % of SRVGGNetCompact's time in fp32, and its layout of channels in blocks ends there (1.32,
    AVX2); `benchmarks/graph_passes.py` has what this gains.

    1. Slopes that are a constant of any shape, all within +-2: rewritten. Beyond, digits would be lost.
    2. Slopes that are computed, numbers that are no floats, and other operators, LeakyRelu too: left as they are.

    Opset 14 and later; bodies of If, Loop and Scan are rewritten as well.
    """
    for graph in all_graphs(model):
        for node in list(graph):
            if node.op_type == "PRelu" and node.domain == "":
                _spell_out(graph, node)
    return model


def _spell_out(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    x, slope, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if x is None or slope is None or slope.const_value is None:
        return
    values = slope.const_value.numpy()
    if values.dtype.kind != "f" or not (np.abs(values) <= LARGEST_SLOPE).all():
        return
    name, result_name = str(node.name), str(result.name)
    rest = add_constant(graph, f"{name}_rest", 1 - values)
    scaled = ir.node("Mul", [x, slope], name=f"{name}_scaled")
    positive = ir.node("Relu", [x], name=f"{name}_positive")
    more = ir.node("Mul", [positive.outputs[0], rest], name=f"{name}_more")
    whole = ir.node("Add", [scaled.outputs[0], more.outputs[0]], name=name)
    for made in (scaled, positive, more, whole):
        made.metadata_props.update(node.metadata_props)
        value = made.outputs[0]
        value.name, value.shape, value.type = f"{made.name}_result", result.shape, result.type
    graph.insert_before(node, [scaled, positive, more, whole])
    result.replace_all_uses_with(whole.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    whole.outputs[0].name = result_name
