"""The function behind a value: what it is, where it ends, and that errors are weighed by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from aigc_calibration.behind import length_behind
from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.quantize import quantize
from aigc_calibration.ranges import find_bounds
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

X = np.linspace(-3, 3, 61)


def node(op: str, read: list[str], result: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, read, [result], f"{op}_{result}", **attributes)


CONSTANTS: dict[str, Array | np.generic] = {
    "w": np.ones((2, 2, 1, 1), np.float32),
    "slope": np.array([0.3, 0.4], np.float32).reshape(2, 1, 1),
    "rest": np.array([0.7, 0.6], np.float32).reshape(2, 1, 1),
    "half": np.float32(0.5),
    "shift": np.float32(1),
    "row": np.arange(4, dtype=np.float32),
    "low": np.float32(-1),
    "high": np.float32(2),
}


def network(nodes: list[onnx.NodeProto], last: str = "y") -> ir.Model:
    """Conv -> nodes -> Conv."""
    every = [node("Conv", ["x", "w"], "c"), *nodes, node("Conv", [last, "w"], "z")]
    named = {entry for n in every for entry in n.input}
    given = {name: array for name, array in CONSTANTS.items() if name in named}
    return make_graph(every, given, {"x": ["n", 2, 4, 4]}, {"z": ["n", 2, 4, 4]})


def length(nodes: list[onnx.NodeProto], **options: Any) -> Array:
    """Lengths at X, from zero on."""
    function = length_behind(network(nodes), "c", -3.0, 3.0, **options)
    assert function is not None
    return np.asarray(function(X) - function(np.zeros(1)))


def negative(slope: float) -> Array:
    return np.where(X < 0, slope * X, X)


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([node("LeakyRelu", ["c"], "y", alpha=0.2)], negative(0.2)),
        ([node("Relu", ["c"], "y")], negative(0.0)),
        ([node("PRelu", ["c", "slope"], "y")], negative(float(np.sqrt((0.09 + 0.16) / 2)))),
        (
            [
                node("Mul", ["c", "slope"], "m"),
                node("Relu", ["c"], "p"),
                node("Mul", ["p", "rest"], "q"),
                node("Add", ["q", "m"], "y"),
            ],
            negative(float(np.sqrt((0.09 + 0.16) / 2))),
        ),
        ([node("Tanh", ["c"], "y")], np.tanh(X)),
        ([node("Neg", ["c"], "t"), node("Tanh", ["t"], "y")], np.tanh(X)),
        ([node("Mul", ["c", "half"], "h"), node("Add", ["shift", "h"], "y")], X / 2),
        ([node("Clip", ["c", "low", "high"], "y")], np.clip(X, -1, 2)),
    ],
    ids=["LeakyRelu", "Relu", "PRelu", "PRelu in plain arithmetic", "Tanh", "falling", "a line", "Clip"],
)
def test_functions_that_only_rise_or_fall(nodes: list[onnx.NodeProto], wanted: Array) -> None:
    np.testing.assert_allclose(length(nodes), wanted, atol=2e-3)


def test_a_function_that_turns_is_as_long_as_its_way() -> None:
    """SiLU falls to its least number at -1.278 and rises from there (Elfwing et al. 2018, section 2.3)."""
    found = length([node("Sigmoid", ["c"], "s"), node("Mul", ["c", "s"], "y")])
    silu, least = X / (1 + np.exp(-X)), -0.27846
    expected = np.where(X < -1.278, 2 * least - silu, silu)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert (np.diff(found) > 0).all()


def test_it_ends_at_what_is_quantized() -> None:
    nodes = [node("LeakyRelu", ["c"], "a", alpha=0.2), node("Tanh", ["a"], "y")]
    assert length(nodes)[-1] == pytest.approx(np.tanh(3), abs=2e-3)
    np.testing.assert_allclose(length(nodes, stops=["a"]), negative(0.2), atol=2e-3)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Identity", ["c"], "y")],
        [node("Relu", ["c"], "y"), node("Conv", ["c", "w"], "other")],
        [node("Add", ["c", "x"], "y")],
        [node("Softmax", ["c"], "y")],
        [node("Add", ["c", "row"], "y")],
    ],
    ids=["a copy", "a product beside it", "a sum with something else", "sums over channels", "a constant of columns"],
)
def test_what_is_no_function_of_each_number(nodes: list[onnx.NodeProto]) -> None:
    assert length_behind(network(nodes), "c", -3.0, 3.0) is None


def test_what_is_not_there_or_has_no_width() -> None:
    model = network([node("Relu", ["c"], "y")])
    assert length_behind(model, "elsewhere", -3.0, 3.0) is None
    assert length_behind(model, "x", -3.0, 3.0) is None
    assert length_behind(model, "c", 0.0, 0.0) is None
    assert length_behind(model, "z", -3.0, 3.0) is None  # nothing reads it


def test_a_function_that_is_not_finite() -> None:
    nodes = [node("Mul", ["c", "half"], "h"), node("Div", ["shift", "h"], "y")]
    assert length_behind(network(nodes), "c", -3.0, 3.0) is None


def test_other_numbers_than_floats() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT32, [4])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [4])
    graph = helper.make_graph([node("Neg", ["x"], "c"), node("Neg", ["c"], "y")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(model)
    assert length_behind(ir.from_proto(proto), "c", -3.0, 3.0) is None


def test_ranges_are_those_of_the_least_error_behind(rng: np.random.Generator) -> None:
    """Numbers that LeakyRelu makes small are given fewer codes, and what comes out of it is better."""
    weight = rng.standard_normal((8, 2, 1, 1)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w", "b"], "c"),
        node("LeakyRelu", ["c"], "a", alpha=0.1),
        node("Conv", ["a", "w2"], "y"),
    ]
    constants = {"w": weight, "b": np.full(8, -2, np.float32), "w2": np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 16, 16]}, {"y": ["n", 8, 16, 16]})
    data = Batches(tuple({"x": rng.standard_normal((8, 2, 16, 16)).astype(np.float32)} for _ in range(4)))
    config = QuantConfig(ranges="mse", equalize=0.0)
    quantized = quantize(model, data, config, precision="int8")
    histogram = quantized.statistics.tensors["c"].histogram
    low, high = quantized.plan.ranges["c"].bounds or (0.0, 0.0)
    blind = find_bounds(histogram, "mse")
    assert low > blind[0] + 0.5
    values = np.concatenate([open_onnx(model, expose=["c"])(f)["c"].reshape(-1) for f in data.feeds])

    def error(bounds: tuple[float, float]) -> float:
        step = (bounds[1] - bounds[0]) / 255
        rounded = np.clip(np.rint(values / step) * step, *bounds)
        leak = [np.where(v < 0, 0.1 * v, v) for v in (values, rounded)]
        return float(np.square(leak[0] - leak[1]).mean())

    assert error((low, high)) < error(blind) / 1.5
