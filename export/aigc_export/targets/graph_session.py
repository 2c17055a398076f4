"""Run a graph that was compiled for another device: ONNX Runtime's CPU kernels, its optimizer off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_graphs
from aigc_calibration.prepare import copy_graph
from aigc_calibration.sites import SITE_OPS
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.shape_profiles import ShapeProfile, choose_profile
from aigc_runtime.core.tensors import Array, bind_dims

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["bf16_products_in_float", "bounded"]

Function = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def bf16_products_in_float(model: ir.Model) -> ir.Model:
    """Copy a graph with bf16 products computed in float: ONNX Runtime has no bf16 kernels on a CPU.

    1. `Y = MatMul(X, W)` in bf16 -> `Y = Cast(MatMul(Cast(X), Cast(W)))`: the operands are those bf16 numbers, sums are
       float, the result is rounded to bf16; that is what a device does, whose sums are float as well. Gemm, Conv and
       ConvTranspose likewise, their bias included.
    2. Such a product in a body of If, Loop or Scan: likewise, inside that body.
    3. Any other graph is copied as it is.

    Opset 13 and later, from which Cast knows bf16.
    """
    import onnx_ir as ir

    model = copy_graph(model)
    for graph, node in [(one, node) for one in all_graphs(model) for node in one]:
        if node.op_type not in SITE_OPS or not any(
            v is not None and v.dtype == ir.DataType.BFLOAT16 for v in node.inputs
        ):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(index, _cast_before(graph, node, value, index))
        result = node.outputs[0]
        readers, name = list(result.uses()), result.name
        back = ir.node("Cast", [result], {"to": ir.DataType.BFLOAT16.value}, name=f"{node.name}_to_bf16")
        back.outputs[0].name, result.name = name, f"{name}_float"
        back.outputs[0].shape, back.outputs[0].type = result.shape, ir.TensorType(ir.DataType.BFLOAT16)
        result.type = ir.TensorType(ir.DataType.FLOAT)
        for reader, index in readers:
            reader.replace_input_with(index, back.outputs[0])
        for index, output in enumerate(graph.outputs):
            if output is result:
                graph.outputs[index] = back.outputs[0]
        graph.insert_after(node, back)
    return model


def _cast_before(graph: ir.Graph, node: ir.Node, value: ir.Value, index: int) -> ir.Value:
    import onnx_ir as ir

    made = ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, name=f"{node.name}_input_{index}_float")
    made.outputs[0].name = f"{made.name}_value"
    graph.insert_before(node, made)
    return made.outputs[0]


def bounded(function: Function, interface: Interface, profiles: Sequence[ShapeProfile]) -> Function:
    """Wrap a function so that it refuses every shape that the compiled engine would refuse.

    Raises (when called):
        FeedError: no profile takes the shapes.
    """

    def run(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        sizes = bind_dims((tensor, feeds[tensor.name].shape) for tensor in interface.graph_inputs)
        choose_profile(profiles, sizes)
        return function(feeds)

    return run
