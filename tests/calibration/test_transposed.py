"""Weights that are turned round before they are read are stored that way, and the graph computes the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.computed import KEPT_BYTES
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph
from aigc_calibration.transposed import transpose_weights

from .conftest import make_graph

RNG = np.random.default_rng(0)


def product(shape: tuple[int, int], *, shared: bool = False, perm: list[int] | None = None) -> ir.Model:
    """x W^T, and where W is shared a row of W that is added."""
    nodes = [helper.make_node("Transpose", ["w"], ["t"], "turn")]
    if perm is not None:
        nodes = [helper.make_node("Transpose", ["w"], ["t"], "turn", perm=perm)]
    nodes += [helper.make_node("MatMul", ["x", "t"], ["p" if shared else "y"], "product")]
    constants = {"w": RNG.standard_normal(shape).astype(np.float32)}
    if shared:
        constants["i"] = np.array([1], np.int64)
        nodes += [helper.make_node("Gather", ["w", "i"], ["row"], "row")]
        nodes += [helper.make_node("ReduceSum", ["row"], ["sum"], "sum", keepdims=0)]
        nodes += [helper.make_node("Add", ["p", "sum"], ["y"], "add")]
    return make_graph(nodes, constants, {"x": [3, shape[1]]}, {"y": [3, shape[0]]})


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("perm", [None, [1, 0]])
@pytest.mark.parametrize("shape", [(4, 6), (512, KEPT_BYTES // 1024)])
def test_a_transposed_weight_is_stored_as_it_is_read(shape: tuple[int, int], perm: list[int] | None) -> None:
    model = product(shape, perm=perm)
    after = transpose_weights(copy_graph(model))
    assert operators(after) == ["MatMul"]
    assert list(after.graph.initializers) == ["t"]
    feeds = {"x": RNG.standard_normal((3, shape[1])).astype(np.float32)}
    before, now = (open_onnx(one, optimize=False)(feeds)["y"] for one in (model, after))
    np.testing.assert_allclose(now, before, rtol=1e-5, atol=1e-6 * float(np.abs(before).max()))


def test_a_weight_that_something_else_reads_is_left() -> None:
    after = transpose_weights(product((8, 6), shared=True))
    assert "Transpose" in operators(after)
    assert set(after.graph.initializers) == {"w", "i"}


def test_what_is_no_weight_or_a_result_is_left() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["a"], "of an input"), helper.make_node("Relu", ["a"], ["y"], "r")]
    assert operators(transpose_weights(make_graph(nodes, {}, {"x": [2, 3]}, {"y": [3, 2]}))) == ["Transpose", "Relu"]
    nodes = [helper.make_node("Transpose", ["w"], ["y"], "a result")]
    constants = {"w": np.ones((2, 3), np.float32)}
    assert operators(transpose_weights(make_graph(nodes, constants, {"x": [2]}, {"y": [3, 2]}))) == ["Transpose"]


def test_an_operator_of_another_domain_is_left() -> None:
    model = product((4, 6))
    next(iter(model.graph)).domain = "elsewhere"
    assert operators(transpose_weights(model)) == ["Transpose", "MatMul"]
