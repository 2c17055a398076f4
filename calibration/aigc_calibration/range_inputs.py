"""Build a quantized graph whose activation ranges are inputs, so that others are tried without a new graph.

QuantizeLinear takes its scale and zero point as inputs. Here they are inputs of the graph, and weights are the floats
that their codes stand for. The numbers are those of the emitted graph as long as the engine does not fuse: it runs with
its optimizer off, in float between the codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.computed import computed
from aigc_calibration.edit import add_constant
from aigc_calibration.emit import activation_grid, emit
from aigc_calibration.formats import QdqFormat
from aigc_calibration.plan import OpPlan, QuantizationPlan, TensorPlan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["graph_with_ranges", "range_feeds"]

_SCALE, _ZERO = "_scale", "_zero_point"
"""What the emitter puts behind the name of a value for the two numbers of its grid."""


def graph_with_ranges(
    model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight], form: QdqFormat
) -> ir.Model:
    """Build the quantized graph with an input `NAME_scale` and one `NAME_zero_point` for every range of the plan.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: in `int8`.
        weights: codes of every weight that the plan quantizes.
        form: of the engine.
    """

    def swap(node: ir.Node, index: int, value: ir.Value, op: OpPlan) -> None:
        if index != 1 or op.weight is None or node.name != op.node:  # one that reads the result of the site
            node.replace_input_with(index, value)
            return
        graph, codes = node.graph, value.producer()
        assert graph is not None
        assert codes is not None
        node.replace_input_with(1, add_constant(graph, f"{op.weight}_rounded", _rounded(weights[op.weight])))
        graph.remove(codes, safe=True)

    plain = replace(form, nbits=False, moves_codes=False, phases=False, integer_bias=False, float_ops={})
    made = emit(model, plan, weights, plain, swap=swap)
    for name in plan.ranges:
        for number in (f"{name}{_SCALE}", f"{name}{_ZERO}"):
            if number in made.graph.initializers:  # a range that nothing is quantized by is not emitted
                value = made.graph.initializers.pop(number)
                value.const_value = None
                made.graph.inputs.append(value)
    return made


def _rounded(weight: QuantizedWeight) -> ir.TensorProtocol:
    """The numbers of a weight's codes, computed where they are written."""
    import onnx_ir as ir

    name = f"{weight.name}_rounded"
    return computed(name, weight.dequantize, shape=weight.codes.shape, dtype=ir.DataType.FLOAT)


def range_feeds(ranges: Collection[TensorPlan], form: QdqFormat) -> dict[str, Array]:
    """The inputs that stand for these ranges."""
    feeds: dict[str, Array] = {}
    for found in ranges:
        scale, zero = activation_grid(found, "int8", form)
        feeds |= {f"{found.name}{_SCALE}": np.array(scale, dtype=np.float32), f"{found.name}{_ZERO}": zero}
    return feeds
