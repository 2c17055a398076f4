"""A prepared graph computes the same, and its Gemms are plain ones that every precision can take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.prepare import copy_graph, prepare
from aigc_calibration.quantize import quantize
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

ROWS, IN, OUT = 8, 32, 6


def gemm(
    shape: tuple[int, ...], alpha: float, beta: float, *, transposed: bool = False, computed: bool = False
) -> ir.Model:
    """Gemm -> Identity; the bias is a constant, or the Tanh of one."""
    rng = np.random.default_rng(0)

    def normal(*sizes: int) -> Array:
        return rng.standard_normal(sizes).astype(np.float32)

    constants = {
        "w": normal(OUT, IN) if transposed else normal(IN, OUT),
        "b": np.asarray(4 * normal(*shape), np.float32),
    }
    bias = "t" if computed else "b"
    nodes = [helper.make_node("Add", ["one", "b"], ["t"], "add")] if computed else []
    nodes += [
        helper.make_node("Gemm", ["x", "w", bias], ["g"], "gemm", alpha=alpha, beta=beta, transB=int(transposed)),
        helper.make_node("Identity", ["g"], ["y"], "id"),
    ]
    inputs: dict[str, list[int | str]] = {"x": [ROWS, IN]}
    if computed:
        inputs["one"] = [1]
    return make_graph(nodes, constants, inputs, {"y": [ROWS, OUT]})


def feeds(model: ir.Model) -> dict[str, Array]:
    values = {"x": np.random.default_rng(1).standard_normal((ROWS, IN)).astype(np.float32)}
    if len(model.graph.inputs) > 1:
        values["one"] = np.ones(1, np.float32)
    return values


SHAPES = [(OUT,), (1, OUT), (1,), (), (ROWS, OUT), (ROWS, 1), (1, 1)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (3.0, 0.25)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gemm_becomes_a_plain_one(shape: tuple[int, ...], factors: tuple[float, float], transposed: bool) -> None:
    model = gemm(shape, *factors, transposed=transposed)
    prepared = prepare(model)
    expected, actual = (open_onnx(m)(feeds(model))["y"] for m in (model, prepared))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    node = next(n for n in prepared.graph if n.op_type == "Gemm")
    assert not {"alpha", "beta"} & set(node.attributes)
    assert len(node.inputs) == 2 or tuple(node.inputs[2].const_value.shape) == (OUT,)  # type: ignore[union-attr]


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_a_bias_that_is_computed(beta: float) -> None:
    model = gemm((OUT,), 3.0, beta, computed=True)
    expected, actual = (open_onnx(m)(feeds(model))["y"] for m in (model, prepare(model)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


MIN_DB = {"int8": 30.0, "int8-weight": 30.0, "int4-weight": 15.0, "fp16": 60.0, "bf16": 40.0, "fp8": 20.0}


@pytest.mark.parametrize("precision", MIN_DB)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_precision_takes_it(shape: tuple[int, ...], precision: SitePrecision) -> None:
    """Factors and biases as PyTorch's `addmm` has them: in blocks they were ignored, or the graph did not load."""
    model = gemm(shape, 3.0, 0.25)
    found = quantize(model, Batches((feeds(model),)), QuantConfig(), precision=precision)
    expected, actual = (open_onnx(m)(feeds(model))["y"] for m in (model, found.graph))
    assert compare_arrays(expected, actual).sqnr_db > MIN_DB[precision]
    assert found.coverage.planned == 1.0


def test_a_copy_shares_constants_and_nothing_that_can_be_changed() -> None:
    """Also in a subgraph: setting a value's dtype changes the type that it holds."""
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 2])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    before, copied = ir.to_proto(model).SerializeToString(), copy_graph(model)
    assert ir.to_proto(copied).SerializeToString() == before
    assert copied.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    for one in (copied.graph, *copied.graph.subgraphs()):
        for node in one:
            node.name = "changed"
            for value in node.outputs:
                value.dtype = ir.DataType.DOUBLE
        for value in one.inputs:
            value.dtype = ir.DataType.DOUBLE
    assert ir.to_proto(model).SerializeToString() == before


def test_a_large_weight_behind_a_transpose_is_not_copied() -> None:
    """Computed where it is read: a model's weights must fit into memory once."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((640, 512)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "matmul"),
    ]
    model = make_graph(nodes, {"w": weight}, {"x": [ROWS, 512]}, {"y": [ROWS, 640]})
    made = prepare(model)
    held = made.graph.initializers["matmul_weight"].const_value
    assert isinstance(held, ir.LazyTensor)
    assert not held.cache
    np.testing.assert_array_equal(held.numpy(), weight.T)
    x = {"x": rng.standard_normal((ROWS, 512)).astype(np.float32)}
    assert compare_arrays(open_onnx(model)(x)["y"], open_onnx(made)(x)["y"]).sqnr_db > 120
