"""Carry out a plan on a graph: QuantizeLinear and DequantizeLinear in the form that an engine turns into 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.accumulators import fits
from aigc_calibration.blocks import dequantize_blocks, to_matmul_nbits
from aigc_calibration.digest import graph_digest
from aigc_calibration.edit import add_constant, finish, insert_after
from aigc_calibration.errors import PlanError
from aigc_calibration.formats import QdqFormat
from aigc_calibration.grids import GRIDS
from aigc_calibration.lookups import emit_lookups
from aigc_calibration.nearest import by_index
from aigc_calibration.phases import phases_of, plan_by_phases
from aigc_calibration.plan import HALF_PRECISIONS, OpPlan, QuantizationPlan, TensorPlan
from aigc_calibration.prepare import copy_graph
from aigc_calibration.ranges import affine_scale
from aigc_calibration.sites import copies, find_sites
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["activation_grid", "emit", "plan_for"]

_Weights = Mapping[str, QuantizedWeight]
Swap = Callable[["ir.Node", int, "ir.Value", OpPlan], None]
"""A function swap(node, index, value, op): it makes `node` read `value` as its input `index`, as `op` plans."""


def _replace(node: ir.Node, index: int, value: ir.Value, _op: OpPlan) -> None:
    node.replace_input_with(index, value)


def plan_for(plan: QuantizationPlan, form: QdqFormat, model: ir.Model) -> QuantizationPlan:
    """Leave the sites float that the engine has no kernel for.

    Args:
        plan: of the model.
        form: of the engine.
        model: the float graph that the plan was made for.
    """
    missing = _without_kernel(plan, form, model)
    if not form.half_arithmetic:
        why = "it has no weight to store in 16 bits, and the engine computes in float"
        missing |= {op.node: why for op in plan.ops if op.weight is None and op.precision in HALF_PRECISIONS}
    return plan.with_float(missing)


def _without_kernel(plan: QuantizationPlan, form: QdqFormat, model: ir.Model) -> dict[str, str]:
    """Map the sites that the engine has no kernel for to the reason."""
    found = {
        op.node: form.float_ops[op.op_type, op.precision]
        for op in plan.quantized()
        if (op.op_type, op.precision) in form.float_ops
    }
    phased = {str(n.name) for n in model.graph if form.phases and n.name in found and phases_of(n) is not None}
    return {node: why for node, why in found.items() if node not in phased}


def emit(
    model: ir.Model,
    plan: QuantizationPlan,
    weights: Mapping[str, QuantizedWeight],
    form: QdqFormat,
    *,
    swap: Swap = _replace,
) -> ir.Model:
    """Carry out a plan.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: what becomes of each site.
        weights: codes of every weight that the plan quantizes, by name of the constant.
        form: of the engine.
        swap: puts a quantized value in the place of a float one; see `search.toggle` for another use of it.

    Raises:
        PlanError: the plan is for another graph, or names what the graph has not; or a value of the model has a name
            that one of the emitted graph needs.
    """
    if graph_digest(model) != plan.graph_sha256:
        raise PlanError(
            "the plan was made for another graph", hint="calibrate again: the model, its weights or the passes changed"
        )
    for node, why in _without_kernel(plan, form, model).items():
        raise PlanError(f"{node!r} cannot be quantized: {why}", hint="use `plan_for`")
    own = copy_graph(model)
    results: Mapping[str, tuple[str, ...]] = {}
    if form.phases:
        plan, weights, results = plan_by_phases(own, plan, weights)
    emitter = _Emitter(own, plan, weights, form, swap)
    for op in plan.quantized():
        emitter.site(op)
        if op.precision == "int8" and op.op_type in form.quantized_results and op.output is not None:
            emitter.results(results.get(op.node, (op.output,)), op)
    if form.nbits:
        emit_lookups(emitter.model, plan, weights)
    finish(emitter.graph)
    return emitter.model


def activation_grid(found: TensorPlan, precision: str, form: QdqFormat) -> tuple[float, Array]:
    """(scale, zero point) of an activation in `int8` or `fp8`, as an engine takes it."""
    if precision == "fp8":
        import ml_dtypes

        return GRIDS["fp8"].scale_for(found.amax), np.array(0, dtype=ml_dtypes.float8_e4m3fn)
    if form.unsigned and found.bounds is not None:
        scale, zero = affine_scale(*found.bounds)
        return scale, np.array(zero, dtype=np.uint8)
    zero_point = np.array(128, dtype=np.uint8) if form.unsigned else np.array(0, dtype=np.int8)
    return GRIDS["int8"].scale_for(found.amax), zero_point


class _Emitter:
    def __init__(self, model: ir.Model, plan: QuantizationPlan, weights: _Weights, form: QdqFormat, swap: Swap) -> None:
        self.model, self.graph = model, model.graph
        self.plan, self.weights, self.form, self.swap = plan, weights, form, swap
        self.nodes = {str(n.name): n for n in model.graph}
        self.values = {str(v.name): v for n in model.graph for v in n.outputs}
        self.values.update({str(v.name): v for v in model.graph.inputs})
        self.shapes = {s.weight: s.shape for s in find_sites(model) if s.weight is not None}
        self.reads = {str(n.name): [None if v is None else str(v.name) for v in n.inputs] for n in model.graph}
        self.ranges = plan.ranges
        self.dequantized: dict[str, ir.Value] = {}

    def constant(self, name: str, array: Array) -> ir.Value:
        return add_constant(self.graph, name, array)

    def site(self, op: OpPlan) -> None:
        node = self.nodes.get(op.node)
        if node is None or node.op_type != op.op_type:
            raise PlanError(f"the plan names {op.node!r} ({op.op_type}), which was not found in the graph")
        if op.precision in {"int8", "fp8"}:
            for index, name in enumerate(self.reads[op.node][:2]):
                if name in op.activations:
                    self.swap(node, index, self.activation(str(name), op.precision), op)
        if op.precision in HALF_PRECISIONS:
            self.half(node, op)
        elif op.block is not None:
            found = self.weights[str(op.weight)]
            if self.form.nbits and op.op_type in {"MatMul", "Gemm"}:
                to_matmul_nbits(self.graph, node, found)
            else:
                self.swap(node, 1, dequantize_blocks(self.graph, node, found, self.shapes[found.name]), op)
        elif op.weight is not None:
            self.weight(node, op)

    def activation(self, name: str, precision: str) -> ir.Value:
        """Q and DQ behind a value; all sites share them."""
        if name not in self.dequantized:
            found = self.ranges[name]
            value = self.values[name]
            if precision == "int8" and self.form.moves_codes:
                value = self.quantize_before_copies(value, found)
                self.quantize_before_concat(value, found)
            self.dequantized[name] = self.quantize(value, found, precision)
        return self.dequantized[name]

    def quantize_before_copies(self, value: ir.Value, found: TensorPlan) -> ir.Value:
        """Q and DQ also in front of an operator that only copies numbers: it then moves codes, not floats.

        `Relu -> Resize -> Q -> DQ` becomes `Relu -> Q -> DQ -> Resize -> Q -> DQ` with the same codes: ONNX Runtime
        drops the inner pair, upsamples 8-bit numbers, and drops the Relu where the grid has no code below zero.
        """
        node = value.producer()
        source = None if node is None or not copies(node) else node.inputs[0]
        if node is None or source is None or source.const_value is not None or source.is_graph_output():
            return value
        before = source.producer()
        if len(list(source.uses())) > 1 or (before is not None and before.op_type == "DequantizeLinear"):
            return value  # its other readers want floats, or it holds codes already
        node.replace_input_with(0, self.quantize(self.quantize_before_copies(source, found), found, "int8"))
        result = by_index(self.graph, node, lambda codes: self.quantize(codes, found, "int8"))
        self.values[str(result.name)] = result
        return result

    def quantize_before_concat(self, value: ir.Value, found: TensorPlan) -> None:
        """Q and DQ also in front of a concatenation, which copies numbers, on each input that is float.

        `LeakyRelu -> Concat -> Q -> DQ` becomes `LeakyRelu -> Q -> DQ -> Concat -> Q -> DQ` with the same codes: ONNX
        Runtime concatenates 8-bit numbers, and its LeakyRelu gives them.
        """
        node = value.producer()
        if node is None or node.op_type != "Concat" or value.is_graph_output() or len(list(value.uses())) > 1:
            return  # its other readers want floats
        for source in dict.fromkeys(source for source in node.inputs if source is not None):
            before = source.producer()
            if source.const_value is not None or (before is not None and before.op_type == "DequantizeLinear"):
                continue
            codes = self.quantize(source, found, "int8", name=f"{source.name}_in_{value.name}")
            for index, one in enumerate(node.inputs):
                if one is source:
                    node.replace_input_with(index, codes)

    def quantize(self, value: ir.Value, found: TensorPlan, precision: str, *, name: str = "") -> ir.Value:
        """Q and DQ behind a value, which keeps its readers; what is made is called by it, or as is given."""
        import onnx_ir as ir

        name = name or str(value.name)
        number, code = activation_grid(found, precision, self.form)
        scale = self.constant(f"{name}_scale", np.array(number, dtype=np.float32))
        if precision == "fp8" and not self.form.fp8_arithmetic:
            return self.round_to_fp8(value, scale)
        zero = self.constant(f"{name}_zero_point", code)
        quantized = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_quantize")
        restored = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero], name=f"{name}_dequantize")
        quantized.outputs[0].name = f"{name}_quantized"
        restored.outputs[0].name = f"{name}_dequantized"
        restored.outputs[0].shape, restored.outputs[0].type = value.shape, value.type
        insert_after(self.graph, value, [quantized, restored])
        return restored.outputs[0]

    def round_to_fp8(self, value: ir.Value, scale: ir.Value) -> ir.Value:
        """`x / s` to 8 bits and back, times s: as plain casts.

        ONNX Runtime takes the zero point of an fp8 QuantizeLinear for the smallest code and drops the Relu in front of
        it (1.32), which changes the result.
        """
        import onnx_ir as ir

        steps: list[ir.Node] = []
        source = value
        for op, operands, attributes in (
            ("Div", [scale], {}),
            ("Cast", [], {"to": ir.DataType.FLOAT8E4M3FN.value}),
            ("Cast", [], {"to": ir.DataType.FLOAT.value}),
            ("Mul", [scale], {}),
        ):
            steps.append(ir.node(op, [source, *operands], attributes, name=f"{value.name}_fp8_{len(steps)}"))
            source = steps[-1].outputs[0]
            source.name = f"{value.name}_fp8_{len(steps)}"
        source.shape, source.type = value.shape, value.type
        insert_after(self.graph, value, steps)
        return source

    def weight(self, node: ir.Node, op: OpPlan) -> None:
        """DQ in front of the weight, whose codes become the constant."""
        import onnx_ir as ir

        found = self.weights[str(op.weight)]
        codes = found.codes.astype(_storage(found))
        scale = self.constant(f"{op.weight}_scale", found.scales.astype(np.float32))
        zero = self.constant(f"{op.weight}_zero_point", np.zeros(found.scales.shape, dtype=codes.dtype))
        stored = self.constant(f"{op.weight}_quantized", codes)
        restored = ir.node(
            "DequantizeLinear", [stored, scale, zero], {"axis": found.axis}, name=f"{op.weight}_dequantize"
        )
        restored.outputs[0].name = f"{op.weight}_dequantized"
        self.graph.insert_before(node, restored)
        self.swap(node, 1, restored.outputs[0], op)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        constant = None if bias is None else bias.const_value
        vector = constant is not None and tuple(constant.shape) == found.scales.shape
        if op.precision == "int8" and self.form.integer_bias and bias is not None and vector:
            self.bias(node, bias, op, found.scales)

    def half(self, node: ir.Node, op: OpPlan) -> None:
        """Operands and product in 16 bits; a result is float again, so that sums, norms and softmax stay so.

        An engine that computes in float has nothing to gain from rounded activations: it gets the weight alone, in
        half the size.
        """
        import onnx_ir as ir

        kind = ir.DataType.FLOAT16 if op.precision == "fp16" else ir.DataType.BFLOAT16
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            constant = value.const_value
            if not self.form.half_arithmetic and (index > 1 or constant is None):
                continue
            if constant is not None:
                rounded = self.constant(f"{value.name}_{op.precision}", constant.numpy().astype(kind.numpy()))
            else:
                rounded = self.cast(value, kind, f"{value.name}_{op.precision}")
            if not self.form.half_arithmetic:
                rounded = self.cast(rounded, ir.DataType.FLOAT, f"{rounded.name}_float")
            self.swap(node, index, rounded, op)
        if self.form.half_arithmetic:
            self.restore(node.outputs[0], kind)

    def cast(self, value: ir.Value, kind: ir.DataType, name: str) -> ir.Value:
        """`Cast`, shared by all readers of the value."""
        import onnx_ir as ir

        if name not in self.dequantized:
            made = ir.node("Cast", [value], {"to": kind.value}, name=name)
            made.outputs[0].name, made.outputs[0].shape = name, value.shape
            made.outputs[0].type = ir.TensorType(kind)
            insert_after(self.graph, value, [made])
            self.dequantized[name] = made.outputs[0]
        return self.dequantized[name]

    def restore(self, result: ir.Value, kind: ir.DataType) -> None:
        """`Cast` of a 16-bit result to float, under the result's own name."""
        import onnx_ir as ir

        node, name = result.producer(), str(result.name)
        assert node is not None
        made = ir.node("Cast", [result], {"to": ir.DataType.FLOAT.value}, name=f"{name}_restore")
        new = made.outputs[0]
        new.shape, new.type = result.shape, ir.TensorType(ir.DataType.FLOAT)
        for reader, index in list(result.uses()):
            reader.replace_input_with(index, new)
        made.replace_input_with(0, result)
        for index, output in enumerate(self.graph.outputs):
            if output is result:
                self.graph.outputs[index] = new
        result.name, new.name = f"{name}_half", name
        result.type = ir.TensorType(kind)
        self.graph.insert_after(node, made)
        self.values[name] = new

    def bias(self, node: ir.Node, bias: ir.Value, op: OpPlan, scales: Array) -> None:
        """The bias in units of the products' own scale, int32."""
        import onnx_ir as ir

        values = bias.const_value.numpy()  # type: ignore[union-attr]
        number, _ = activation_grid(self.ranges[op.activations[0]], op.precision, self.form)
        unit = (np.float32(number) * scales).astype(np.float32)
        codes = np.rint(values.astype(np.float64) / unit)
        found = self.weights[str(op.weight)]
        if not fits(found.codes, found.axis, codes):
            why = f"the bias of {op.node!r} and its products do not fit in 32 bits"
            raise PlanError(why, hint="round its weight by `round_weights`, whose scales leave room for them")
        scale = self.constant(f"{node.name}_bias_scale", unit)
        zero = self.constant(f"{node.name}_bias_zero_point", np.zeros(unit.shape, dtype=np.int32))
        stored = self.constant(f"{node.name}_bias_quantized", codes.astype(np.int32))
        restored = ir.node("DequantizeLinear", [stored, scale, zero], {"axis": 0}, name=f"{node.name}_bias_dequantize")
        restored.outputs[0].name = f"{node.name}_bias_dequantized"
        self.graph.insert_before(node, restored)
        self.swap(node, 2, restored.outputs[0], op)

    def results(self, names: Sequence[str], op: OpPlan) -> None:
        """Q and DQ on a site's result, and on copies of it: every reader sees codes, as does the next site."""
        last = self.values[names[-1]]
        if not last.is_graph_output() and list(last.uses()):
            for name in names:
                self.result(name, op)

    def result(self, name: str, op: OpPlan) -> None:
        value = self.values[name]
        readers = [(node, index) for node, index in value.uses()]
        if name in self.dequantized:
            restored = self.dequantized[name]
        else:
            restored = self.dequantized[name] = self.quantize(value, self.ranges[name], "int8")
        for node, index in readers:
            if node.op_type != "QuantizeLinear":
                self.swap(node, index, restored, op)


def _storage(weight: QuantizedWeight) -> Any:
    if weight.grid.name == "fp8":
        import ml_dtypes

        return ml_dtypes.float8_e4m3fn
    return np.int8
