"""Measure what a graph loses to fp32: the same graph in float64, and how far the fp32 one is from it.

A rewrite may change the order of additions, which moves an output by about as much as fp32 had rounded it already. So
the yardstick is the captured graph's own distance from its float64 copy, whatever the scale of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.bodies import all_graphs
from aigc_calibration.computed import computed, sizes_of
from aigc_calibration.onnx_file import to_proto, weight_bytes
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph
from aigc_runtime.core.compare import EXACT_DB, TensorErrors, Tolerance
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["evaluate_in_double", "reordered_tolerance", "rounding_tolerance"]

Outputs = dict[str, Array]

MAX_WEIGHT_BYTES = 1 << 27
"""Of fp32 weights: the session that runs the copy takes twice as much."""
MAX_WORK = 5e10
"""Numbers of one set of feeds times numbers of all weights, from which on evaluation in Python would take minutes."""

ROUNDING_FACTOR = 4.0
"""How much further from float64 a rewritten graph may be than the captured one."""
REORDERED_FACTOR = 64.0
"""The same for a graph that computes the same in float64: a saturated softmax multiplies the rounding of a few large
numbers, which is another in another order. Beyond this the rewrite loses digits that the captured graph had."""
ROUNDING_FLOOR = 2 * float(np.finfo(np.float32).eps)
"""Relative to the outputs' scale; a graph that happens to round nothing may be rewritten into one that does."""


def rounding_tolerance(own: TensorErrors) -> Tolerance:
    """What a rewritten graph must keep to beside float64, given how far the captured one is from it."""
    return _tolerance(own, ROUNDING_FACTOR)


def reordered_tolerance(own: TensorErrors) -> Tolerance:
    """The same for a graph that computes in float64 what the captured one does."""
    return _tolerance(own, REORDERED_FACTOR)


def _tolerance(own: TensorErrors, factor: float) -> Tolerance:
    noise = 10 ** (-own.sqnr_db / 20) if own.sqnr_db < EXACT_DB else 0.0
    allowed = factor * noise + ROUNDING_FLOOR
    largest = factor * own.max_over_rms + 4 * ROUNDING_FLOOR
    # Where an output is nothing but rounding, its scale says nothing; as wrong as zeros it still may not be.
    return Tolerance(max_over_rms=min(largest, 0.99), min_sqnr_db=max(-20 * math.log10(allowed), 0.1))


def evaluate_in_double(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> list[Outputs] | None:
    """The outputs of a graph for each set of feeds, all floating-point arithmetic in float64.

    ONNX Runtime computes it where it has kernels in double for every operator of the graph, onnx's reference evaluator
    elsewhere, if the work is small enough for it.

    Returns:
        None where float64 cannot be had: a graph that is too large, or with operators that only take float32.
    """
    if weight_bytes(model) > MAX_WEIGHT_BYTES:
        return None
    doubled = _in_double(model)
    doubles = [{name: _widened(value) for name, value in one.items()} for one in feeds]
    try:
        run = open_onnx(doubled, optimize=False, packed=False)
        return [run(one) for one in doubles]
    except Exception:  # noqa: BLE001 - no kernel in double; its types share no base class
        work = max((sum(v.size for v in one.values()) for one in feeds), default=0) * weight_bytes(model) / 4
        if work > MAX_WORK:
            return None
    try:
        return _by_reference(to_proto(doubled), doubles)
    except Exception:  # noqa: BLE001 - whatever an operator of the evaluator raises, there is no yardstick
        return None


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _in_double(model: ir.Model) -> ir.Model:
    """A copy of a graph, its subgraphs and functions in which every float32 is a float64.

    1. Initializers, constants and the types of values: float32 -> float64.
    2. `Cast(to=FLOAT)` -> `Cast(to=DOUBLE)`; the same for every attribute that names a type.
    3. `Resize`, whose scales must be float32 -> a Cast before them.
    4. `Loop` without a condition -> one that is true: onnx's evaluator would not run its body at all (1.23).
    """
    copy = copy_graph(model)
    for one in all_graphs(copy):
        for value in (*one.inputs, *one.initializers.values()):
            _widen_value(value)
        for node in list(one):
            _widen_node(one, node)
    return copy


def _widen_node(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, _widen_tensor(attribute.as_tensor()))
        elif name in {"to", "dtype"} and attribute.as_int() == ir.DataType.FLOAT:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.DOUBLE.value)
        elif node.op_type == "Constant" and name in {"value_float", "value_floats"}:
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.asarray(attribute.value, np.float64)))
    for value in node.outputs:
        _widen_value(value)
    if node.op_type == "Resize" and len(node.inputs) > 2 and node.inputs[2] is not None:
        narrow = ir.node("Cast", [node.inputs[2]], {"to": ir.DataType.FLOAT.value})
        graph.insert_before(node, narrow)
        node.replace_input_with(2, narrow.outputs[0])
    if node.op_type == "Loop" and node.inputs[1] is None:
        true = ir.node("Constant", [], {"value": ir.tensor(np.array(True))})
        graph.insert_before(node, true)
        node.replace_input_with(1, true.outputs[0])


def _widen_value(value: ir.Value) -> None:
    import onnx_ir as ir

    if value.dtype == ir.DataType.FLOAT:
        value.dtype = ir.DataType.DOUBLE
    if value.const_value is not None:
        value.const_value = _widen_tensor(value.const_value)


def _widen_tensor(tensor: Any) -> Any:
    import onnx_ir as ir

    if tensor.dtype != ir.DataType.FLOAT:
        return tensor
    return computed(
        str(tensor.name), lambda: tensor.numpy().astype(np.float64), shape=sizes_of(tensor), dtype=ir.DataType.DOUBLE
    )


def _by_reference(proto: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> list[Outputs]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)
    names = [o.name for o in proto.graph.output]
    with np.errstate(all="ignore"):
        return [dict(zip(names, map(np.asarray, evaluator.run(names, dict(one))), strict=True)) for one in feeds]
