"""Batch normalization behind a Reshape disappears into the product, and only where that is the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.onnx_file import to_proto
from aigc_export.graphs.passes import check_and_run, run_passes
from aigc_export.graphs.passes.batch_norm import fold_batch_norm
from aigc_runtime.core.tensors import Array

from ...conftest import tiny_of

FEATURES, CHANNELS = 24, 6


def network(
    *,
    gemm: dict[str, Any] | None = None,
    shape: tuple[int, ...] = (-1, CHANNELS, 2, 2),
    extra: str = "",
    training: bool = False,
    bias: bool = True,
) -> tuple[ir.Model, torch.nn.Module]:
    """Linear -> view -> BatchNorm2d as ONNX, and PyTorch's own."""
    torch.manual_seed(0)
    linear, norm = torch.nn.Linear(5, FEATURES), torch.nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.normal_()
        assert norm.running_var is not None
        norm.running_var.uniform_(0.1, 3)
    module = torch.nn.Sequential(linear, torch.nn.Unflatten(1, (CHANNELS, 2, 2)), norm).eval()
    attributes = {"transB": 1, **(gemm or {})}
    weight = linear.weight.detach().numpy()
    constants = {
        "w": weight if attributes["transB"] else np.ascontiguousarray(weight.T),
        "b": linear.bias.detach().numpy(),
        "shape": np.array(shape, dtype=np.int64),
        **{n: getattr(norm, k).detach().numpy() for n, k in (("gamma", "weight"), ("beta", "bias"))},
        **{n: getattr(norm, k).numpy() for n, k in (("mean", "running_mean"), ("var", "running_var"))},
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", *(["b"] if bias else [])], ["g"], "gemm", **attributes),
        helper.make_node("Reshape", ["g", "shape"], ["r"], "reshape"),
        helper.make_node(
            "BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["y"], "norm", training_mode=int(training)
        ),
    ]
    outputs = ["y", *([extra] if extra else [])]
    if extra == "again":
        nodes.append(helper.make_node("Gemm", ["x", "w"], ["again"], "again", transB=attributes["transB"]))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model)), module


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def draw(rows: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("first", [-1, 0])
def test_the_function_is_pytorchs(trans_b: int, first: int) -> None:
    model, module = network(gemm={"transB": trans_b}, shape=(first, CHANNELS, 2, 2))
    graph, (report,) = run_passes(model, [("fold", fold_batch_norm)], feeds=[{"x": draw(1)}, {"x": draw(3)}])
    assert report.worst.sqnr_db > 120
    assert operators(graph) == ["Gemm", "Reshape"]
    for rows in (1, 4):
        (actual,) = check_and_run(graph, [{"x": draw(rows)}])
        expected = module(torch.from_numpy(draw(rows))).detach().numpy()
        np.testing.assert_allclose(actual["y"], expected, rtol=1e-5, atol=1e-5)
    # Bisection compares values by name: what the module calls the product is not there any more.
    assert [str(node.outputs[0].name) for node in graph.graph] == ["g_normalized", "y"]


@pytest.mark.parametrize(
    "options",
    [
        {"extra": "g"},
        {"extra": "r"},
        {"extra": "again"},
        {"gemm": {"alpha": 2.0}},
        {"gemm": {"beta": 0.5}},
        {"bias": False},
    ],
)
def test_what_is_not_the_same_function_is_left_alone(options: dict[str, Any]) -> None:
    model, _ = network(**options)
    before = to_proto(model).SerializeToString()
    assert to_proto(fold_batch_norm(model)).SerializeToString() == before


def test_rows_that_the_reshape_mixes_are_left_alone() -> None:
    """[2n, 24] -> [n, 6, 8, ...]: a channel then holds features of two rows."""
    model, _ = network(shape=(-1, CHANNELS, 2, 4))
    before = to_proto(model).SerializeToString()
    assert to_proto(fold_batch_norm(model)).SerializeToString() == before


def test_the_generator_has_none_left() -> None:
    tiny = tiny_of("gan")
    graph = ir.from_proto(to_proto(tiny.captured.model))
    assert "BatchNormalization" in operators(graph)
    from aigc_export.graphs.passes import CLEAN_UP

    graph, _ = run_passes(graph, CLEAN_UP, feeds=[tiny.feeds()])
    assert "BatchNormalization" not in operators(graph)
