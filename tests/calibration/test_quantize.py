"""What the engine runs in float is left float and said; a plan of which nothing would run is an error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.quantize import quantize
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return np.asarray(RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)


def convolutions(count: int) -> tuple[ir.Model, Batches]:
    """Conv -> Relu -> ... -> Conv, whose last gives the output."""
    nodes, value = [], "x"
    for i in range(count):
        last = i == count - 1
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], ["y" if last else f"c{i}"], f"conv{i}", pads=[1] * 4))
        if not last:
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
            value = f"r{i}"
    weights = {f"w{i}": normal(4, 4, 3, 3) for i in range(count)}
    model = make_graph(nodes, weights, {"x": ["batch", 4, 8, 8]}, {"y": ["batch", 4, 8, 8]})
    return model, Batches(tuple({"x": normal(8, 4, 8, 8)} for _ in range(4)))


def test_what_the_engine_runs_in_float_is_left_float() -> None:
    model, data = convolutions(3)
    found = quantize(model, data, QuantConfig(), precision="int8", threads=1)
    assert {op.node: op.precision for op in found.plan.ops} == {"conv0": "int8", "conv1": "int8", "conv2": "float"}
    assert found.coverage.float_sites == {"conv2": "the engine runs it in float"}
    assert found.coverage.missed == ()
    assert found.coverage.executed == found.coverage.planned == pytest.approx(2 / 3)
    assert found.weights.keys() == {"w0", "w1"}
    # Its weight is as it was, and so is what it reads.
    names = {str(value.name) for value in found.graph.graph.initializers.values()}
    assert "w2" in names
    assert "w2_quantized" not in names
    feeds = data.feeds[0]
    errors = compare_arrays(open_onnx(model)(feeds)["y"], open_onnx(found.graph)(feeds)["y"])
    assert errors.sqnr_db > 30


def test_a_plan_of_which_nothing_would_run_is_an_error() -> None:
    model, data = convolutions(1)
    with pytest.raises(PlanError, match="nothing in the graph can be run in int8 by this engine") as err:
        quantize(model, data, QuantConfig(), precision="int8", threads=1)
    assert err.value.hint == "the engine runs it in float"


def test_what_the_user_keeps_float_has_the_user_s_reason() -> None:
    model, data = convolutions(3)
    for node in model.graph:
        if node.name == "conv0":
            node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'first', 'conv0']"
    found = quantize(model, data, QuantConfig(keep_float=("first",)), precision="int8", threads=1)
    assert set(found.coverage.float_sites.values()) == {"asked to stay float", "the engine runs it in float"}
