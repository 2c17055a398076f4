"""Emitted graphs: codes known by hand, the same in both forms, in the form that each engine wants."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import check_executed, executed_sites, site_macs
from aigc_calibration.emit import emit, plan_for
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan, SitePrecision, parse_plan
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError

from .conftest import Batches, Shape, initializer, make_graph, small_network
from .formats import FORMATS


def sqnr(expected: Array, actual: Array) -> float:
    return compare_arrays(expected, actual).sqnr_db


def plan_of(
    model: ir.Model, data: Batches, config: QuantConfig | None = None, precision: SitePrecision = "int8"
) -> tuple[QuantizationPlan, dict[str, QuantizedWeight]]:
    statistics = collect(model, data, watched(model, attention=True))
    plan = make_plan(model, statistics, config or QuantConfig(), precision=precision)
    return plan, round_weights(model, plan)


def emitted(name: str, model: ir.Model, data: Batches, precision: SitePrecision = "int8") -> ir.Model:
    plan, weights = plan_of(model, data, precision=precision)
    return emit(model, plan_for(plan, FORMATS[name], model), weights, FORMATS[name])


def test_known_answer() -> None:
    """x = [1, 2, 4] has amax 4: codes round(x * 127 / 4); w has columns of amax 2 and 1."""
    weight = np.array([[2.0, 0.5], [-1.0, 1.0], [0.25, -0.3]], dtype=np.float32)
    model = make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight}, {"x": [1, 3]}, {"y": [1, 2]}
    )
    x = np.array([[1.0, 2.0, 4.0]], dtype=np.float32)
    plan, _ = plan_of(model, Batches(({"x": x}, {"x": x})), QuantConfig(ranges="minmax", affine=False))
    assert {t.name: (t.amax, t.bounds) for t in plan.tensors} == {"x": (4.0, None)}
    from aigc_calibration.grids import GRIDS
    from aigc_calibration.weights import channel_scales, round_to_channels

    scales = channel_scales(weight, 1, GRIDS["int8"], method="minmax")
    np.testing.assert_allclose(scales, [2 / 127, 1 / 127], rtol=1e-7)
    weights = {"w": round_to_channels("w", weight, 1, GRIDS["int8"], scales=scales)}
    np.testing.assert_array_equal(weights["w"].codes, [[127, 64], [-64, 127], [16, -38]])
    x_codes, w_codes = np.array([32, 64, 127]), weights["w"].codes
    expected = (x_codes @ w_codes) * (np.float32(4 / 127) * scales)
    for form in FORMATS.values():
        actual = open_onnx(emit(model, plan, weights, form))({"x": x})["y"]
        np.testing.assert_allclose(actual[0], expected, rtol=1e-6)


def test_known_answer_with_a_zero_point() -> None:
    """x = [-1, 2, 4] spans 5 in 255 steps of 1/51: the codes are round(51 x) + 51, TensorRT's round(x * 127 / 4)."""
    weight = np.array([[1.0], [-1.0], [0.5]], dtype=np.float32)
    model = make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight}, {"x": [1, 3]}, {"y": [1, 1]}
    )
    x = np.array([[-1.0, 2.01, 4.0]], dtype=np.float32)
    plan, weights = plan_of(model, Batches(({"x": x}, {"x": x})), QuantConfig(ranges="minmax"))
    assert plan.ranges["x"].bounds == (-1.0, 4.0)
    codes = {"ort-cpu": np.array([0, 154, 255]), "tensorrt": np.array([-32, 64, 127])}  # 51 * 2.01 = 102.5, 63.8
    for name, expected in codes.items():
        graph = emit(model, plan, weights, FORMATS[name])
        actual = open_onnx(graph, expose=["x_quantized"], optimize=False)({"x": x})["x_quantized"]
        np.testing.assert_array_equal(actual[0], expected)
    np.testing.assert_allclose(initializer(graph, "x_scale").numpy(), 4 / 127, rtol=1e-6)


def test_both_forms_hold_the_same_codes(network: tuple[ir.Model, Batches]) -> None:
    """Where ranges are symmetric; zero points of their own are ONNX Runtime's alone."""
    model, data = network
    plan, weights = plan_of(model, data, QuantConfig(affine=False))
    # Only what both forms quantize: one ConvTranspose less.
    plan = plan_for(plan, FORMATS["tensorrt"], model)
    graphs = {name: emit(model, plan, weights, FORMATS[name]) for name in ("ort-cpu", "tensorrt")}
    names = [f"{a}_quantized" for op in plan.quantized() for a in op.activations]
    codes = {
        name: open_onnx(graph, expose=[n for n in names if n == "x_quantized"], optimize=False)(data.feeds[0])
        for name, graph in graphs.items()
    }
    unsigned, signed = (codes[n]["x_quantized"] for n in ("ort-cpu", "tensorrt"))
    assert unsigned.dtype == np.uint8
    assert signed.dtype == np.int8
    np.testing.assert_array_equal(unsigned.astype(int) - 128, signed.astype(int))
    assert np.unique(signed).size > 50
    for weight in weights:
        if f"{weight}_quantized" in graphs["tensorrt"].graph.initializers:
            stored = [initializer(g, f"{weight}_quantized").numpy() for g in graphs.values()]
            np.testing.assert_array_equal(stored[0], stored[1])
    for name in names:
        scale = name.replace("_quantized", "_scale")
        unsigned, signed = (initializer(g, scale).numpy() for g in graphs.values())
        assert unsigned == signed


def test_the_tensorrt_form(network: tuple[ir.Model, Batches]) -> None:
    """Symmetric s8, one Q/DQ on the input, DQ alone on the weight, a float bias, nothing on the result."""
    model, data = network
    proto = ir.to_proto(emitted("tensorrt", model, data))
    onnx.checker.check_model(proto, full_check=True)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    producers = {o: n for n in proto.graph.node for o in n.output}
    for node in proto.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "ConvTranspose":  # computed in float, whatever stands around it
            assert constants[node.input[1]].dtype == np.float32
        if node.op_type in {"Conv", "MatMul", "Gemm"}:
            for value in node.input[:2]:
                assert producers[value].op_type == "DequantizeLinear"
            assert producers[producers[node.input[0]].input[0]].op_type == "QuantizeLinear"
            assert constants[producers[node.input[1]].input[0]].dtype == np.int8
            assert all(constants[bias].dtype == np.float32 for bias in node.input[2:])
    assert not any(o.startswith("c1_") for n in proto.graph.node for o in n.output if "quantized" in o)


def test_onnx_runtime_runs_its_form_in_integers(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    plan, weights = plan_of(model, data)
    form = FORMATS["ort-cpu"]
    plan = plan_for(plan, form, model)
    graph = emit(model, plan, weights, form)
    assert executed_sites(graph, plan) == {"conv1", "up", "conv3", "matmul", "gemm"}
    coverage = check_executed(graph, plan, site_macs(model, data.feeds[0]))
    assert coverage.planned == coverage.executed == 1
    assert coverage.float_sites == {}


def test_a_plan_that_silently_runs_float_is_an_error(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    plan, weights = plan_of(model, data)
    plan = plan_for(plan, FORMATS["tensorrt"], model)
    graph = emit(model, plan, weights, FORMATS["tensorrt"])  # not the form for this engine
    with pytest.raises(PlanError, match=r"the engine runs .*, the plan says \d\d\.\d%\nsites that stay"):
        check_executed(graph, plan, site_macs(model, data.feeds[0]))
    nothing = plan.with_float({op.node: "" for op in plan.ops})
    with pytest.raises(PlanError, match=r"nothing in the graph can be run in int8"):
        check_executed(model, nothing, site_macs(model, data.feeds[0]))


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_results_stay_close(form: str, precision: SitePrecision, network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    # ONNX Runtime drops the Relu in front of an fp8 QuantizeLinear, so that form must run as it stands.
    quantized = open_onnx(emitted(form, model, data, precision), optimize=form == "ort-cpu" or precision == "int8")
    floats = open_onnx(model)
    for feeds in data.feeds:
        errors = compare_arrays(floats(feeds)["y"], quantized(feeds)["y"])
        assert errors.sqnr_db > (28 if precision == "int8" else 20)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_error_of_a_product_is_within_what_the_scales_imply(seed: int) -> None:
    """|x W - x' W'| <= sum_k (|x_k| dw + |w_kj| dx + dx dw), with half a step of each grid for dx and dw."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 40)), int(rng.integers(1, 20))
    weight = (rng.standard_normal((k, n)) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
    x = (rng.standard_normal((16, k)) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
    model = make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": weight}, {"x": ["n", k]}, {"y": ["n", n]}
    )
    plan, weights = plan_of(model, Batches(({"x": x[:8]}, {"x": x[8:]})), QuantConfig(ranges="minmax"))
    from aigc_calibration.grids import GRIDS
    from aigc_calibration.weights import channel_scales, round_to_channels

    scales = channel_scales(weight, 1, GRIDS["int8"], method="minmax")
    weights = {"w": round_to_channels("w", weight, 1, GRIDS["int8"], scales=scales)}
    low, high = plan.ranges["x"].bounds or (0.0, 0.0)
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    for form in FORMATS.values():
        # A zero point is a whole code, so the ends of a range may lie half a step outside the codes.
        dx = (high - low) / 255 if form.unsigned else 0.5 * plan.ranges["x"].amax / 127
        dw = 0.5 * scales
        bound = np.abs(x).sum(axis=1, keepdims=True) * dw + dx * np.abs(weight).sum(axis=0) + k * dx * dw
        actual = open_onnx(emit(model, plan, weights, form))({"x": x})["y"]
        assert (np.abs(actual - exact) <= bound * (1 + 1e-4) + 1e-6 * np.abs(exact).max()).all()


def test_a_mask_is_never_quantized(rng: np.random.Generator) -> None:
    mask = np.where(np.tril(np.ones((4, 4))), 0, np.finfo(np.float32).min).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"], "scores"),
        helper.make_node("Add", ["s", "mask"], ["masked"], "add"),
        helper.make_node("MatMul", ["masked", "w"], ["y"], "after"),
    ]
    model = make_graph(
        nodes,
        {"mask": mask, "w": rng.standard_normal((4, 3)).astype(np.float32)},
        {"q": [4, 8], "k": [8, 4]},
        {"y": [4, 3]},
    )
    feeds = {"q": rng.standard_normal((4, 8)).astype(np.float32), "k": rng.standard_normal((8, 4)).astype(np.float32)}
    plan, _ = plan_of(model, Batches((feeds, feeds)), QuantConfig(attention=True))
    found = {op.node: op for op in plan.ops}
    assert found["scores"].precision == "int8"
    assert found["after"].precision == "float"
    assert found["after"].why == "'masked' holds a mask constant or infinity"


def test_what_the_configuration_keeps(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", "model", f"model.net.{node.name}", node.name])
    plan, _ = plan_of(prepare(model), data, QuantConfig(sensitive=("net.conv1", "net.con")))
    assert {o.module for o in plan.ops if o.precision == "float"} == {"net.conv1"}


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8", "int8-weight", "int4-weight"])
def test_what_is_asked_to_stay_float_does_so_in_every_precision(
    precision: SitePrecision, network: tuple[ir.Model, Batches]
) -> None:
    model, data = network
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", "model", f"model.net.{node.name}", node.name])
    config = QuantConfig(sensitive=("net.conv1",), keep_float=("net.gemm",))
    plan = quantize(model, data, config, precision=precision).plan
    why = {op.module: op.why for op in plan.ops if op.precision == "float"}
    assert why["net.gemm"] == "asked to stay float"
    # What a family keeps float for the sake of 8 bits, 16 bits take.
    assert ("net.conv1" in why) == (precision != "fp16")


def test_plans_are_for_one_graph(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    plan, weights = plan_of(model, data)
    with pytest.raises(PlanError, match="the plan was made for another graph"):
        emit(small_network(1)[0], plan, weights, FORMATS["tensorrt"])
    with pytest.raises(PlanError, match="'up' cannot be quantized: TensorRT computes ConvTranspose in float"):
        emit(model, plan, weights, FORMATS["tensorrt"])


def test_plans_are_json(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    plan, _ = plan_of(model, data)
    assert parse_plan(plan.dump()) == plan
    text = plan.dump().decode()
    for bad, message in (
        (text.replace('"version": 2', '"version": 3'), r"(?s)has version 3.*upgrade"),
        (text.replace('"version": 2', '"version": 1'), r"(?s)has version 1.*export again"),
        (re.sub(r'"bounds": \[\s*(-?[0-9.]+)', '"bounds": [ 1.0', text, count=1), r"the range of .* is .*\(1\.0, "),
        (re.sub(r'"amax": [0-9.]+', '"amax": -2.0', text, count=1), r"the range of .* is -2\.0"),
        (text.replace('"precision": "int8"', '"precision": "int9"', 2), r"\.precision is 'int9'"),
        (text.replace('"why"', '"because"', 1), "because is not a known field"),
        ("[]", "is not a quantization plan"),
    ):
        with pytest.raises(PlanError, match=message):
            parse_plan(bad.encode())
    with pytest.raises(AigcError):
        parse_plan(b"{")
    with pytest.raises(PlanError, match="has no range for 'x'"):
        replace(plan, tensors=())


def test_equal_ranges_for_what_is_quantized_twice(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Resize", ["r", "", "sizes"], ["u"], "resize", mode="nearest"),
        helper.make_node("Conv", ["u", "w2"], ["t"], "second", pads=[1] * 4),
        helper.make_node("Tanh", ["t"], ["y"], "tanh"),
    ]

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    constants = {"w1": normal(4, 2, 3, 3), "w2": normal(1, 4, 3, 3), "sizes": np.array([1, 1, 2, 2], np.float32)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 1, 8, 8]})
    plan, _ = plan_of(model, Batches(tuple({"x": normal(4, 2, 4, 4)} for _ in range(4))))
    shared = plan.ranges["u"]
    assert (plan.ranges["c"].amax, plan.ranges["c"].bounds) == (shared.amax, shared.bounds)
    assert shared.bounds is not None
    assert shared.bounds[0] == 0  # nothing is negative behind Relu
    # Behind tanh nothing beyond a few units matters, so the range stops there.
    assert plan.ranges["t"].amax < 5


def optimized_ops(model: ir.Model, folder: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def test_codes_are_copied_where_floats_were(tmp_path: Path, rng: np.random.Generator) -> None:
    """Conv -> Relu -> Resize -> Conv: in the engine nothing is left between them but a choice of rows and columns."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Resize", ["r", "", "sizes"], ["u"], "resize", mode="nearest"),
        helper.make_node("Conv", ["u", "w2"], ["y"], "second", pads=[1] * 4),
    ]
    constants = {"w1": normal(4, 2, 3, 3), "w2": normal(3, 4, 3, 3), "sizes": np.array([1, 1, 2, 2], np.float32)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 3, 8, 8]})
    data = Batches(tuple({"x": normal(4, 2, 4, 4)} for _ in range(4)))
    plan, weights = plan_of(model, data)
    form = FORMATS["ort-cpu"]
    copied, floats = (emit(model, plan, weights, replace(form, moves_codes=moves)) for moves in (True, False))
    for feeds in data.feeds:  # the same numbers, whoever copies
        expected = open_onnx(floats, optimize=False)(feeds)["y"]
        np.testing.assert_array_equal(open_onnx(copied, optimize=False)(feeds)["y"], expected)
    run = {name: optimized_ops(graph, tmp_path) for name, graph in (("codes", copied), ("floats", floats))}
    assert run["codes"]["QuantizeLinear"] == 1  # of the input
    assert run["codes"]["Relu"] == run["codes"]["Resize"] == 0
    assert run["codes"]["Gather"] == 2
    assert run["codes"]["Transpose"] <= 2  # of the whole graph's input and output; none around the Gathers
    assert run["floats"]["Relu"] == run["floats"]["Resize"] == 1


def test_upsampling_that_is_read_by_floats_too(rng: np.random.Generator) -> None:
    """A Tanh beside the convolution: both read the upsampled value, one of them as codes."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Resize", ["r", "", "sizes"], ["u"], "resize", mode="nearest"),
        helper.make_node("Conv", ["u", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Tanh", ["u"], ["t"], "tanh"),
        helper.make_node("Add", ["c", "t"], ["y"], "add"),
    ]
    constants = {"w": normal(2, 2, 3, 3), "sizes": np.array([1, 1, 2, 3], np.float32)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 5]}, {"y": ["n", 2, 8, 15]})
    data = Batches(tuple({"x": normal(4, 2, 4, 5)} for _ in range(4)))
    plan, weights = plan_of(model, data)
    graph = emit(model, plan, weights, FORMATS["ort-cpu"])
    assert "Resize" not in {node.op_type for node in graph.graph}
    for feeds in data.feeds:
        expected = open_onnx(model)(feeds)["y"]
        assert sqnr(expected, open_onnx(graph)(feeds)["y"]) > 35


def test_upsampling_by_a_size_or_of_an_unknown_one_stays_a_resize(rng: np.random.Generator) -> None:
    w = rng.standard_normal((2, 2, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Resize", ["x", "", "sizes"], ["u"], "resize", mode="nearest"),
        helper.make_node("Conv", ["u", "w"], ["y"], "conv", pads=[1] * 4),
    ]
    cases: tuple[tuple[Shape, list[float]], ...] = (
        (["n", 2, "h", "w"], [1, 1, 2, 2]),
        (["n", 2, 4, 4], [1, 1, 1.5, 1.5]),
    )
    for shape, sizes in cases:
        constants = {"w": w, "sizes": np.array(sizes, np.float32)}
        model = make_graph(nodes, constants, {"x": shape}, {"y": ["n", 2, None, None]})
        data = Batches(({"x": rng.standard_normal((4, 2, 4, 4)).astype(np.float32)},))
        plan, weights = plan_of(model, data)
        graph = emit(model, plan, weights, FORMATS["ort-cpu"])
        assert "Resize" in {node.op_type for node in graph.graph}
        expected = open_onnx(model)(data.feeds[0])["y"]
        assert sqnr(expected, open_onnx(graph)(data.feeds[0])["y"]) > 35
