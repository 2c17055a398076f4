"""PReLU in plain arithmetic is the same function, and what only looks like it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_export.graphs.passes import check_and_run, run_passes
from aigc_export.graphs.passes.prelu import spell_out_prelu
from aigc_export.targets.ort_cpu import ORT_CPU
from aigc_export.targets.tensorrt.target import TENSORRT_RTX
from aigc_runtime.core.tensors import Array

SHAPE = (2, 5, 4, 3)


def network(
    slope: Array, *, op: str = "PRelu", given: bool = False, kind: int = TensorProto.FLOAT, **attributes: Any
) -> ir.Model:
    """y = op(x, slope), the slope a constant or an input."""
    x, y = (helper.make_tensor_value_info(n, kind, [None, *SHAPE[1:]]) for n in "xy")
    node = helper.make_node(op, ["x"] if op == "LeakyRelu" else ["x", "a"], ["y"], "bend", **attributes)
    more = [helper.make_tensor_value_info("a", kind, list(slope.shape))] if given else []
    constants = [] if given or op == "LeakyRelu" else [numpy_helper.from_array(slope, "a")]
    graph = helper.make_graph([node], "g", [x, *more], [y], constants)
    opset = helper.make_opsetid("", 20)
    model: ir.Model = ir.from_proto(helper.make_model(graph, opset_imports=[opset], ir_version=10))
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def odd_numbers() -> Array:
    """Random numbers, zeros of both signs, tiny and large ones."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[0, :, 0, :] = [0.0, -0.0, 1e-45]
    x[1, :, 0, :] = [-1e-30, 1e37, -1e30]
    return x


def check_near(found: Array, x: Array, slope: Array) -> None:
    """Beside float64: within four roundings of x."""
    exact = np.where(x < 0, x.astype(np.float64) * slope, x)
    assert (np.abs(found - exact) <= 4 * np.finfo(np.float32).eps * np.abs(x) + 1e-44).all()


@pytest.mark.parametrize("shape", [(5, 1, 1), (1,), (), (3,), (1, 5, 1, 1), (5, 4, 3)])
def test_it_is_pytorchs(shape: tuple[int, ...]) -> None:
    slope = np.random.default_rng(1).uniform(-1.5, 1.7, shape).astype(np.float32)
    x = odd_numbers()
    model = spell_out_prelu(network(slope))
    assert operators(model) == ["Mul", "Relu", "Mul", "Add"]
    assert [value.name for value in model.graph.outputs] == ["y"]
    (found,) = check_and_run(model, [{"x": x}])[0].values()
    check_near(found, x, slope)
    if shape == (5, 1, 1):
        theirs = torch.nn.functional.prelu(torch.from_numpy(x), torch.from_numpy(slope.reshape(-1)))
        np.testing.assert_allclose(found, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_slopes_of_zero_and_one() -> None:
    slope, x = np.array([0, 1, -1, 2, 0.25], np.float32).reshape(5, 1, 1), odd_numbers()
    (found,) = check_and_run(spell_out_prelu(network(slope)), [{"x": x}])[0].values()
    check_near(found, x, slope)


@pytest.mark.parametrize(
    "model",
    [
        network(np.full((5, 1, 1), 0.2, np.float32), given=True),
        network(np.array([0.1, np.inf, 0, 0, 0], np.float32).reshape(5, 1, 1)),
        network(np.array([0.1, 2.1, 0, 0, 0], np.float32).reshape(5, 1, 1)),
        network(np.array([0.1, -2.1, 0, 0, 0], np.float32).reshape(5, 1, 1)),
        network(np.array([0.1, np.nan, 0, 0, 0], np.float32).reshape(5, 1, 1)),
        network(np.full((5, 1, 1), 2, np.int32), kind=TensorProto.INT32),
        network(np.array([], np.float32), op="LeakyRelu", alpha=0.2),
        network(np.full((5, 1, 1), 0.2, np.float32), op="Mul"),
    ],
    ids=["computed", "infinite", "steep", "steep and falling", "NaN", "whole numbers", "LeakyRelu", "Mul"],
)
def test_what_looks_like_it_stays(model: ir.Model) -> None:
    before = operators(model)
    assert operators(spell_out_prelu(model)) == before


def test_two_of_them_and_names() -> None:
    nodes = [
        helper.make_node("PRelu", ["x", "a"], ["h"], "one"),
        helper.make_node("PRelu", ["h", "a"], ["y"], "two"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, list(SHAPE)) for n in "xy")
    slope = numpy_helper.from_array(np.full((5, 1, 1), 0.5, np.float32), "a")
    graph = helper.make_graph(nodes, "g", [x], [y], [slope])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feeds = {"x": odd_numbers()}
    model, (report,) = run_passes(ir.from_proto(proto), [("spell-out-prelu", spell_out_prelu)], feeds=[feeds])
    assert report.nodes_after == 8
    assert {node.name for node in model.graph} >= {"one", "two"}
    (found,) = check_and_run(model, [feeds])[0].values()
    check_near(found, feeds["x"], np.array([0.25], np.float32))


def test_it_is_for_processors() -> None:
    """TensorRT fuses a PReLU with the convolution in front of it."""
    assert "spell-out-prelu" in dict(ORT_CPU.passes)
    assert "spell-out-prelu" not in dict(TENSORRT_RTX.passes)
