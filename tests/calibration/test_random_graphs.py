"""Random graphs: what a quantized one gives lies within the interval that its scales and codes imply.

Every value of the quantized graph is followed as an interval: rounding widens it by half a step, a product by the
magnitudes of the codes, and a range cuts it off. Nothing of the emitter or of an engine is used for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit, plan_for
from aigc_calibration.formats import QdqFormat
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_calibration.sites import find_sites
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph
from .formats import FORMATS

SIDE = 5


@dataclass(frozen=True)
class Interval:
    """Where the values of a tensor lie, float64."""

    low: Array
    high: Array

    def through(self, function: Any) -> Interval:
        return Interval(function(self.low), function(self.high))

    def quantized(self, codes: tuple[int, int], scale: float, zero: int) -> Interval:
        """Nearest of the codes; monotone, so that the ends go where the ends go, give or take half a step."""
        lowest, highest = ((code - zero) * scale for code in codes)
        half = scale * (0.5 + 1e-5)
        return Interval(
            np.clip(np.clip(self.low, lowest, highest) - half, lowest, highest),
            np.clip(np.clip(self.high, lowest, highest) + half, lowest, highest),
        )


def grid_of(plan: QuantizationPlan, name: str, form: QdqFormat) -> tuple[tuple[int, int], float, int]:
    """(codes, scale, zero point) by the definition of each form."""
    found, least = plan.ranges[name], float(np.finfo(np.float32).tiny)
    if form.unsigned and found.bounds is not None:
        low, high = found.bounds
        scale = max(float(np.float32((high - low) / 255)), least)
        return (0, 255), scale, int(np.clip(np.rint(-low / scale), 0, 255))
    scale = max(float(np.float32(found.amax / 127)), least)
    return ((0, 255), scale, 128) if form.unsigned else ((-128, 127), scale, 0)


def multiply(node: ir.Node, x: Interval, weight: Array, bias: Array | None) -> Interval:
    """A linear operator on an interval: of the middle exactly, of the half width by magnitudes."""

    def linear(values: Array, by: Array) -> Array:
        if node.op_type == "Conv":
            return torch.conv2d(torch.from_numpy(values), torch.from_numpy(by), padding=1).numpy()
        return values @ (by.T if node.op_type == "Gemm" else by)

    weight = weight.astype(np.float64)
    middle, width = (x.low + x.high) / 2, (x.high - x.low) / 2
    center, reach = linear(middle, weight), linear(width, np.abs(weight))
    if bias is not None:
        center = center + (bias[:, None, None] if node.op_type == "Conv" else bias)
    slack = 1e-5 * (linear(np.abs(middle), np.abs(weight)) + reach + 1e-6)  # float32 sums
    return Interval(center - reach - slack, center + reach + slack)


def follow(
    model: ir.Model, plan: QuantizationPlan, weights: dict[str, QuantizedWeight], form: QdqFormat, x: Array
) -> Interval:
    """The interval of the result."""
    values = {"x": Interval(x.astype(np.float64), x.astype(np.float64))}
    ops = {op.node: op for op in plan.ops}
    constants = {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value is not None}
    for node in model.graph:
        first, out = values[str(node.inputs[0].name)], str(node.outputs[0].name)  # type: ignore[union-attr]
        if node.op_type in {"Conv", "MatMul", "Gemm"}:
            op, name = ops[str(node.name)], str(node.inputs[1].name)  # type: ignore[union-attr]
            bias = constants[str(node.inputs[2].name)] if len(node.inputs) > 2 else None  # type: ignore[union-attr]
            if op.precision == "float":
                values[out] = multiply(node, first, constants[name], bias)
                continue
            grid = grid_of(plan, op.activations[0], form)
            made = multiply(node, first.quantized(*grid), weights[name].dequantize(), bias)
            if bias is not None and form.integer_bias:  # in whole steps of the product's own scale
                step = grid[1] * weights[name].scales.reshape((-1, 1, 1) if node.op_type == "Conv" else -1)
                made = Interval(made.low - step / 2, made.high + step / 2)
            if op.output is not None and node.op_type in form.quantized_results:
                made = made.quantized(*grid_of(plan, op.output, form))
            values[out] = made
        elif node.op_type == "Add":
            second = values[str(node.inputs[1].name)]  # type: ignore[union-attr]
            values[out] = Interval(first.low + second.low, first.high + second.high)
        elif node.op_type == "Resize":
            values[out] = first.through(lambda a: a.repeat(2, axis=2).repeat(2, axis=3))
        elif node.op_type == "Reshape":
            values[out] = first.through(lambda a: a.reshape(len(a), -1))
        else:
            values[out] = first.through({"Relu": lambda a: np.maximum(a, 0), "Tanh": np.tanh}[node.op_type])
    return values["y"]


@st.composite
def networks(draw: st.DrawFn) -> tuple[ir.Model, Batches]:
    """Convolutions with Relu, Tanh, upsampling and residual sums, then dense layers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    channels, side = draw(st.integers(1, 4)), SIDE
    sizes = (channels, side, side)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    last = "x"

    def constant(name: str, *size: int) -> str:
        constants[name] = (rng.standard_normal(size) / np.sqrt(np.prod(size[1:]) or 1)).astype(np.float32)
        return name

    def add(op: str, operands: list[str], **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, operands, [name], f"n{len(nodes)}", **attributes))
        return name

    for i in range(draw(st.integers(0, 3))):
        wide = draw(st.integers(1, 4))
        bias = [constant(f"cb{i}", wide)] if draw(st.booleans()) else []
        made = add("Conv", [last, constant(f"cw{i}", wide, channels, 3, 3), *bias], pads=[1] * 4)
        if wide == channels and draw(st.booleans()):
            made = add("Add", [made, last])
        channels, last = wide, made
        for op in draw(st.lists(st.sampled_from(["Relu", "Tanh"]), max_size=1)):
            last = add(op, [last])
        if side == SIDE and draw(st.booleans()):
            constants["twice"] = np.array([1, 1, 2, 2], np.float32)
            asked = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            last, side = add("Resize", [last, "", "twice"], **asked), 2 * SIDE
    constants["flat"] = np.array([0, -1])
    last, width = add("Reshape", [last, "flat"]), channels * side * side
    for i in range(draw(st.integers(1, 3))):
        wide = draw(st.integers(1, 12))
        if draw(st.booleans()):
            last = add("Gemm", [last, constant(f"gw{i}", wide, width), constant(f"gb{i}", wide)], transB=1)
        else:
            constants[f"mw{i}"] = (rng.standard_normal((width, wide)) / np.sqrt(width)).astype(np.float32)
            last = add("MatMul", [last, f"mw{i}"])
        width = wide
        for op in draw(st.lists(st.sampled_from(["Relu", "Tanh"]), max_size=1)):
            last = add(op, [last])
    nodes[-1].output[0] = "y"
    model = make_graph(nodes, constants, {"x": ["n", *sizes]}, {"y": ["n", width]})
    feeds = tuple({"x": (scale * rng.standard_normal((4, *sizes))).astype(np.float32)} for _ in range(2))
    return model, Batches(feeds)


def planned(model: ir.Model, data: Batches, config: QuantConfig, form: QdqFormat) -> tuple[QuantizationPlan, Any]:
    plan = make_plan(model, collect(model, data, watched(model, attention=True)), config, precision="int8")
    return plan_for(plan, form, model), round_weights(model, plan, config)


def outside(interval: Interval, actual: Array) -> float:
    """How far the worst number lies outside, in widths of the whole."""
    size = float(np.abs(interval.high).max() + np.abs(interval.low).max()) or 1.0
    return float(np.maximum(interval.low - actual, actual - interval.high).max()) / size


CONFIGS = [
    QuantConfig(),
    QuantConfig(affine=False),
    QuantConfig(ranges="minmax", weight_ranges="minmax"),
    QuantConfig(ranges="percentile", percentile=99.0, weight_ranges="percentile"),
]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(network=networks(), config=st.sampled_from(CONFIGS), target=st.sampled_from(["ort-cpu", "tensorrt"]))
def test_results_lie_within_what_the_scales_imply(
    network: tuple[ir.Model, Batches], config: QuantConfig, target: str
) -> None:
    model, data = network
    form = FORMATS[target]
    plan, weights = planned(model, data, config, form)
    run = open_onnx(emit(model, plan, weights, form), optimize=False)
    for feeds in data.feeds:
        assert outside(follow(model, plan, weights, form, feeds["x"]), run(feeds)["y"]) <= 1e-6


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_wrong_scales_lie_outside(target: str) -> None:
    """The check can fail: half the range, or weights of another seed."""
    rng = np.random.default_rng(3)
    constants = {"w": rng.standard_normal((16, 8)).astype(np.float32)}
    model = make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "n")], constants, {"x": ["n", 16]}, {"y": ["n", 8]}
    )
    data = Batches(({"x": rng.standard_normal((32, 16)).astype(np.float32)},))
    form = FORMATS[target]
    plan, weights = planned(model, data, QuantConfig(ranges="minmax", affine=False), form)
    feeds = data.feeds[0]
    interval = follow(model, plan, weights, form, feeds["x"])
    assert outside(interval, open_onnx(emit(model, plan, weights, form))(feeds)["y"]) <= 1e-6
    halved = replace(plan, tensors=tuple(replace(t, amax=t.amax / 2) for t in plan.tensors))
    assert outside(interval, open_onnx(emit(model, halved, weights, form))(feeds)["y"]) > 0.01
    moved = {n: replace(w, codes=np.clip(w.codes.astype(np.int16) + 2, -127, 127)) for n, w in weights.items()}
    assert outside(interval, open_onnx(emit(model, plan, moved, form))(feeds)["y"]) > 0.001


def test_every_operator_is_drawn() -> None:
    """A generator that never made a residual sum or an upsampling would show nothing of them."""
    seen: set[str] = set()

    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @given(networks())
    def look(network: tuple[ir.Model, Batches]) -> None:
        seen.update(node.op_type for node in network[0].graph)
        assert find_sites(network[0])

    look()
    assert seen >= {"Conv", "MatMul", "Gemm", "Relu", "Tanh", "Add", "Resize", "Reshape"}
