"""What a plan means, in float64: codes times scales, by numpy and PyTorch alone.

Nothing of the emitters, of the grids or of an engine is used. A value is followed as an interval, which has no width
where the arithmetic leaves no doubt: only where a number lies on the edge between two codes, or where float32 sums may
round either way, are its ends apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from aigc_calibration.formats import QdqFormat
from aigc_calibration.plan import OpPlan, QuantizationPlan
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

EPS = 2.0**-23
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Interval:
    """Where the values of a tensor lie, float64."""

    low: Array
    high: Array

    @staticmethod
    def of(values: Array) -> Interval:
        wide = np.asarray(values).astype(np.float64)
        return Interval(wide, wide)

    def through(self, function: Callable[[Array], Array], slack: float = 0.0) -> Interval:
        """A function that never falls; `slack` of its result may be lost to rounding."""
        return Interval(function(self.low), function(self.high)).widened(slack)

    def widened(self, relative: float | Array, absolute: float | Array = 0.0) -> Interval:
        return Interval(
            self.low - np.abs(self.low) * relative - absolute, self.high + np.abs(self.high) * relative + absolute
        )

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, other: Interval) -> Interval:
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))

    def on_codes(self, codes: tuple[int, int], scale: float, zero: int, doubt: float) -> Interval:
        """The nearest of the codes; numbers within `doubt` of a step from an edge may go to either side."""
        ends = ((self.low, -doubt), (self.high, doubt))
        low, high = (np.clip(np.rint(v / scale + d) + zero, *codes) for v, d in ends)
        return Interval((low - zero) * scale, (high - zero) * scale)


def e4m3(values: Array) -> Array:
    """The nearest number of E4M3, saturating."""
    near: Array = np.clip(values, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    return near


def grid_of(plan: QuantizationPlan, name: str, form: QdqFormat) -> tuple[tuple[int, int], float, int]:
    """(codes, scale, zero point) by the definition of each form."""
    found = plan.ranges[name]
    if form.unsigned and found.bounds is not None:
        low, high = found.bounds
        scale = max(float(np.float32((high - low) / 255)), TINY)
        return (0, 255), scale, int(np.clip(np.rint(-low / scale), 0, 255))
    scale = max(float(np.float32(found.amax) / np.float32(127)), TINY)
    return ((0, 255), scale, 128) if form.unsigned else ((-128, 127), scale, 0)


def dense_weight(weight: QuantizedWeight) -> Array:
    """Codes, less the zero point of their block, times scales; blocks lie along the rows of a matrix [in, out]."""
    codes, scales = weight.codes.astype(np.float64), weight.scales.astype(np.float64)
    if weight.zeros is not None and weight.block is not None:
        codes -= weight.zeros[np.arange(len(codes)) // weight.block]
    if weight.block is not None:
        return codes * scales[np.arange(len(codes)) // weight.block]
    return codes * scales.reshape([-1 if axis == weight.axis else 1 for axis in range(codes.ndim)])


def linear(node: ir.Node, x: Array, weight: Array) -> Array:
    """The product of a site by PyTorch in float64, without its bias."""
    given = node.attributes
    if node.op_type == "MatMul":
        return np.asarray(np.matmul(x, weight))
    if node.op_type == "Gemm":
        first = x.T if given.get_int("transA", 0) else x
        return given.get_float("alpha", 1.0) * (first @ (weight.T if given.get_int("transB", 0) else weight))
    sides = weight.ndim - 2
    pads = given.get_ints("pads", [0] * 2 * sides)
    assert list(pads[:sides]) == list(pads[sides:])
    named = {
        "stride": tuple(given.get_ints("strides", [1] * sides)),
        "padding": tuple(pads[:sides]),
        "dilation": tuple(given.get_ints("dilations", [1] * sides)),
        "groups": given.get_int("group", 1),
    }
    functions: Mapping[str, Any] = {
        "Conv": (torch.conv1d, torch.conv2d, torch.conv3d),
        "ConvTranspose": (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    }
    function = functions[node.op_type][sides - 1]
    result: Array = function(torch.from_numpy(x), torch.from_numpy(weight), **named).numpy()
    return result


def product(node: ir.Node, x: Interval, weight: Interval, bias: Interval | None, rounding: float = EPS) -> Interval:
    """A site on an interval: of the middle exactly, of the half widths by magnitudes, and what float32 sums lose."""
    middle, reach = (x.low + x.high) / 2, (x.high - x.low) / 2
    inner, spread = (weight.low + weight.high) / 2, (weight.high - weight.low) / 2
    center = linear(node, middle, inner)
    magnitude = np.abs(linear(node, np.abs(middle) + reach, np.abs(inner) + spread))
    doubt = np.abs(linear(node, reach, np.abs(inner) + spread)) + np.abs(linear(node, np.abs(middle), spread))
    low, high = center - doubt, center + doubt
    if bias is not None:
        axes = max(center.ndim - 2, 0) if node.op_type.startswith("Conv") else 0
        beta = node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
        first, second = (beta * end.reshape(end.shape + (1,) * axes) for end in (bias.low, bias.high))
        low, high = low + np.minimum(first, second), high + np.maximum(first, second)
        magnitude = magnitude + np.maximum(np.abs(first), np.abs(second))
    slack = magnitude * rounding * (8 + np.sqrt(inner.size / max(center.shape[-1], 1))) + 1e-37
    return Interval(low - slack, high + slack)


class Reference:
    """Follows a float graph under a plan."""

    def __init__(
        self, model: ir.Model, plan: QuantizationPlan, weights: Mapping[str, QuantizedWeight], form: QdqFormat
    ) -> None:
        self.model, self.plan, self.weights, self.form = model, plan, weights, form
        self.ops = {op.node: op for op in plan.ops}
        self.constants = {
            name: value.const_value.numpy()
            for name, value in model.graph.initializers.items()
            if value.const_value is not None
        }
        self.values: dict[str, Interval] = {}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Interval]:
        """Every value of the graph."""
        self.values = {name: Interval.of(array) for name, array in feeds.items()}
        for node in self.model.graph:
            out = node.outputs[0]
            if (op := self.ops.get(str(node.name))) is not None:
                self.values[str(out.name)] = self.site(node, op)
            else:
                self.values[str(out.name)] = self.other(node)
        return self.values

    def read(self, node: ir.Node, index: int) -> Interval | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        name = str(value.name)
        return Interval.of(self.constants[name]) if name in self.constants else self.values[name]

    def site(self, node: ir.Node, op: OpPlan) -> Interval:
        x, weight, bias = (self.read(node, index) for index in range(3))
        assert x is not None
        assert weight is not None
        rounding = EPS
        if op.precision in {"int8", "fp8"}:
            x = self.rounded(x, op.activations[0], op.precision)
            if op.weight is None:
                weight = self.rounded(weight, op.activations[1], op.precision)
        if op.precision in {"fp16", "bf16"}:
            x, weight, bias, rounding = self.halves(x, weight, bias, op)
        elif op.weight is not None and op.precision != "float":
            found = self.weights[op.weight]
            stored = dense_weight(found)
            nbits = op.block is not None and self.form.nbits and op.op_type in {"MatMul", "Gemm"}
            if nbits:
                x = self.nbits_input(x, stored.shape[0], int(op.block or 1))
            weight = Interval.of(self.laid_out(node, stored, self.constants[op.weight].shape, op))
            if op.precision == "int8" and self.form.integer_bias and bias is not None and bias.low.ndim == 1:
                scales = np.resize(found.scales, bias.low.size)  # those of a ConvTranspose hold for each group
                unit = grid_of(self.plan, op.activations[0], self.form)[1] * scales.astype(np.float64)
                bias = bias.widened(EPS, unit / 2)
        made = product(node, x, weight, bias, rounding)
        if op.precision in {"fp16", "bf16"} and self.form.half_arithmetic:
            made = made.widened(2 * rounding, 1e-7)
        result = node.outputs[0]
        quantized = op.precision == "int8" and op.output is not None and op.op_type in self.form.quantized_results
        if quantized and not result.is_graph_output() and list(result.uses()):
            made = made.on_codes(*grid_of(self.plan, str(op.output), self.form), 2e-3)
        return made

    def rounded(self, x: Interval, name: str, precision: str) -> Interval:
        if precision == "int8":
            return x.on_codes(*grid_of(self.plan, name, self.form), 1e-4)
        scale = max(float(np.float32(self.plan.ranges[name].amax) / np.float32(448)), TINY)
        return Interval(scale * e4m3(x.low / scale * (1 - EPS)), scale * e4m3(x.high / scale * (1 + EPS))).widened(EPS)

    def halves(
        self, x: Interval, weight: Interval, bias: Interval | None, op: OpPlan
    ) -> tuple[Interval, Interval, Interval | None, float]:
        kind: Any = np.float16 if op.precision == "fp16" else ml_dtypes.bfloat16
        eps = 2.0**-10 if op.precision == "fp16" else 2.0**-7

        def half(values: Array) -> Array:
            near: Array = values.astype(np.float32).astype(kind).astype(np.float64)
            return near

        if not self.form.half_arithmetic:
            return x, weight.through(half), bias, EPS
        return x.through(half), weight.through(half), None if bias is None else bias.through(half), eps

    @staticmethod
    def nbits_input(x: Interval, rows: int, block: int) -> Interval:
        """MatMulNBits multiplies in 8 bits: half a step of the largest magnitude of each block is in doubt."""
        magnitude = np.maximum(np.abs(x.low), np.abs(x.high))
        doubt = np.zeros_like(magnitude)
        for first in range(0, rows, block):
            part = slice(first, min(first + block, rows))
            doubt[..., part] = magnitude[..., part].max(axis=-1, keepdims=True) / 127 * 0.501
        return Interval(x.low - doubt, x.high + doubt)

    @staticmethod
    def laid_out(node: ir.Node, stored: Array, shape: tuple[int, ...], op: OpPlan) -> Array:
        if op.block is None or (stored.shape == shape and not node.attributes.get_int("transB", 0)):
            return stored
        turned = node.op_type == "Conv" or bool(node.attributes.get_int("transB", 0))
        return np.ascontiguousarray((stored.T if turned else stored).reshape(shape))

    def other(self, node: ir.Node) -> Interval:
        first, second = self.read(node, 0), self.read(node, 1)
        assert first is not None
        simple: Mapping[str, Callable[[Array], Array]] = {
            "Relu": lambda a: np.maximum(a, 0),
            "Tanh": np.tanh,
            "Sigmoid": lambda a: 1 / (1 + np.exp(-np.clip(a, -700, 700))),
            "Identity": lambda a: a,
            "Flatten": lambda a: a.reshape(len(a), -1),
        }
        if node.op_type in simple:
            made = first.through(simple[node.op_type], 8 * EPS if node.op_type in {"Tanh", "Sigmoid"} else 0.0)
            # Of numbers far below zero ONNX Runtime's sigmoid (1.32) is off by some 1e-7, however small it is.
            return made.widened(0.0, EPS) if node.op_type == "Sigmoid" else made
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm")
            return first.through(lambda a: a.transpose(perm))
        if node.op_type == "Resize":
            return first.through(lambda a: a.repeat(2, axis=2).repeat(2, axis=3))
        assert second is not None
        if node.op_type == "Reshape":
            sizes = [int(n) if n else first.low.shape[i] for i, n in enumerate(second.low.reshape(-1))]
            return first.through(lambda a: a.reshape(sizes))
        if node.op_type == "Gather":
            return Interval.of(first.low[second.low.astype(np.int64)])
        if node.op_type == "Add":
            return (first + second).widened(EPS)
        assert node.op_type == "Mul", node.op_type
        return first.times(second).widened(EPS)


def distance(interval: Interval, actual: Array) -> float:
    """How far the worst number lies outside, relative to the largest in the interval; NaN counts as infinitely far.

    Numbers near float32's smallest, which engines flush to zero, are not told from it.
    """
    if not np.isfinite(actual).all():
        return float("inf")
    outside = np.maximum(np.maximum(interval.low - actual, actual - interval.high) - 100 * TINY, 0).max(initial=0.0)
    size = max(np.abs(interval.high).max(initial=0.0), np.abs(interval.low).max(initial=0.0))
    return float(outside / size) if outside else 0.0
