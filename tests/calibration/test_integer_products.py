"""Products in the graph that ONNX Runtime runs: those whose codes cannot be moved are found by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from aigc_calibration import coverage, integer_products
from aigc_calibration.coverage import executed_sites
from aigc_calibration.errors import PlanError
from aigc_calibration.integer_products import LARGEST_EXACT, optimized, saturating
from aigc_calibration.plan import QuantizationPlan
from aigc_runtime.system.processor import instruction_set

moves_codes = pytest.mark.skipif(
    instruction_set() not in integer_products._MOVES, reason="ONNX Runtime moves no codes on this processor"
)


def product(weight: np.ndarray | None) -> onnx.ModelProto:
    """x u8 [2, 8] times w s8 [8, 4], a constant or, without one, an input."""
    shape = [8, 4]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [2, 8])]
    constants = []
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")]
    if weight is None:
        inputs.append(helper.make_tensor_value_info("v", TensorProto.INT8, shape))
        nodes.insert(0, helper.make_node("Max", ["v", "v"], ["w"], name="made"))
    else:
        constants.append(onnx.numpy_helper.from_array(weight, "w"))
    output = helper.make_tensor_value_info("y", TensorProto.INT32, [2, 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run_graph(model: onnx.ModelProto) -> onnx.GraphProto:
    """What ONNX Runtime makes of a small graph."""
    with optimized(ir.from_proto(model)) as found:
        return found.runs.graph


@moves_codes
def test_constant_codes_are_moved() -> None:
    graph = run_graph(product(np.full((8, 4), -127, dtype=np.int8)))
    assert saturating(graph) == ()
    (weight,) = (t for t in graph.initializer if "w" in t.name and onnx.numpy_helper.to_array(t).ndim == 2)
    assert weight.name.endswith(integer_products.EXACT_SUFFIX)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), np.full((8, 4), 1, dtype=np.uint8))


def test_small_codes_need_not_be() -> None:
    assert 2 * 255 * LARGEST_EXACT < 2**15 <= 255 * (2 * LARGEST_EXACT + 1)
    assert saturating(run_graph(product(np.full((8, 4), LARGEST_EXACT, dtype=np.int8)))) == ()


@moves_codes
def test_codes_that_are_computed_are_found() -> None:
    assert saturating(run_graph(product(None))) == ("product",)


@moves_codes
def test_constants_that_were_not_moved_are_found() -> None:
    assert saturating(product(np.full((8, 4), -127, dtype=np.int8)).graph) == ("product",)
    assert saturating(product(np.full((8, 4), -LARGEST_EXACT, dtype=np.int8)).graph) == ()


def test_another_processor_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "instruction_set", lambda: "neon")
    assert saturating(product(np.full((8, 4), -127, dtype=np.int8)).graph) == ()


def test_a_plan_with_such_a_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "saturating", lambda _graph, _folder: ("a", "b"))
    plan = QuantizationPlan(version=2, graph_sha256="", precision="int8", transforms=(), ops=(), tensors=())
    model = ir.from_proto(product(np.ones((8, 4), dtype=np.int8)))
    with pytest.raises(PlanError, match=r"2 products of 8-bit numbers would saturate .* VNNI: a, b\n.*--keep-float"):
        executed_sites(model, plan)
