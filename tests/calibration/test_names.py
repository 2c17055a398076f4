"""A model may call its own values what an emitter calls its constants."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.quantize import quantize
from aigc_runtime.core.compare import compare_arrays

from .conftest import Batches, make_graph
from .formats import asked


@pytest.mark.parametrize("precision", ["int8", "fp8", "int8-weight", "int4-weight", "fp16"])
@pytest.mark.parametrize("suffix", ["scale", "quantized", "zero_point", "fp16"])
def test_a_parameter_with_the_name_of_a_constant(
    suffix: str, precision: SitePrecision, rng: np.random.Generator
) -> None:
    """`weight` beside `weight_scale`, as in layers that learn their gain."""
    own = f"w_{suffix}"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("Mul", ["m", own], ["y"], "gain"),
    ]
    constants = {"w": rng.standard_normal((32, 4)).astype(np.float32), own: np.full(4, 100.0, np.float32)}
    model = make_graph(nodes, constants, {"x": ["n", 32]}, {"y": ["n", 4]})
    feeds = {"x": rng.standard_normal((8, 32)).astype(np.float32)}
    found = quantize(model, Batches((feeds,)), QuantConfig(), precision=precision)
    expected, actual = (open_onnx(m)(feeds)["y"] for m in (model, found.graph))
    assert compare_arrays(expected, actual).sqnr_db > 15
    assert found.coverage.planned == 1.0


def test_a_computed_value_with_the_name_of_another(rng: np.random.Generator) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["x_dequantized"], "tanh"),
        helper.make_node("Add", ["x", "x_dequantized"], ["s"], "add"),
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("MatMul", ["s", "w2"], ["n"], "matmul2"),
        helper.make_node("Add", ["m", "n"], ["y"], "add2"),
    ]
    constants = {name: rng.standard_normal((8, 4)).astype(np.float32) for name in ("w", "w2")}
    model = make_graph(nodes, constants, {"x": ["n", 8]}, {"y": ["n", 4]})
    data = Batches(({"x": rng.standard_normal((8, 8)).astype(np.float32)},))
    with pytest.raises(PlanError, match=r"(?s)a value named 'x_dequantized', which .*rename it"):
        quantize(model, data, QuantConfig(), precision="int8")


@pytest.mark.parametrize("name", ["", "product"])
@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_nodes_without_a_name_of_their_own(name: str, target: str, rng: np.random.Generator) -> None:
    """A plan calls sites by their nodes' names."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name),
        helper.make_node("Tanh", ["h"], ["t"], name),
        helper.make_node("MatMul", ["t", "w2"], ["y"], name),
    ]
    constants = {n: (rng.standard_normal((16, 16)) / 4).astype(np.float32) for n in ("w1", "w2")}
    model = make_graph(nodes, constants, {"x": ["n", 16]}, {"y": ["n", 16]})
    feeds = {"x": rng.standard_normal((32, 16)).astype(np.float32)}
    found = quantize(model, Batches((feeds,)), QuantConfig(), precision="int8", **asked(target))
    assert found.plan.counts() == {"int8": 2}
    assert len({op.node for op in found.plan.ops}) == 2
    actual = open_onnx(found.graph, optimize=target == "ort-cpu")(feeds)["y"]
    expected = np.tanh(feeds["x"] @ constants["w1"]) @ constants["w2"]
    assert compare_arrays(expected, actual).sqnr_db > 28


def test_a_bias_that_two_layers_share(rng: np.random.Generator) -> None:
    """Its codes differ, since the layers' scales do."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b"], ["h"], "first"),
        helper.make_node("Tanh", ["h"], ["t"], "tanh"),
        helper.make_node("Gemm", ["t", "w2", "b"], ["y"], "second"),
    ]
    constants = {
        "w1": rng.standard_normal((8, 8)),
        "w2": 0.01 * rng.standard_normal((8, 8)),
        "b": rng.standard_normal(8),
    }
    model = make_graph(nodes, {n: a.astype(np.float32) for n, a in constants.items()}, {"x": ["n", 8]}, {"y": ["n", 8]})
    feeds = {"x": rng.standard_normal((16, 8)).astype(np.float32)}
    graph = quantize(model, Batches((feeds,)), QuantConfig(), precision="int8").graph
    assert compare_arrays(open_onnx(model)(feeds)["y"], open_onnx(graph)(feeds)["y"]).sqnr_db > 35
