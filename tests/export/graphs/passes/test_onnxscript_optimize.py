"""onnxscript's optimizer drops what does nothing, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

from aigc_export.graphs.passes import check_and_run
from aigc_export.graphs.passes.onnxscript_optimize import onnxscript_optimize
from aigc_runtime.core.tensors import Array


def arithmetic(op: str, number: Array | np.generic, *, first: bool = False) -> ir.Model:
    """y = x op number, or number op x."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    node = helper.make_node(op, ["c", "x"] if first else ["x", "c"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.asarray(number), "c")])
    model: ir.Model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type != "Identity"]


@pytest.mark.parametrize(
    ("op", "number", "first"),
    [("Add", 0, False), ("Add", 0, True), ("Sub", 0, False), ("Mul", 1, False), ("Mul", 1, True), ("Div", 1, False)],
)
def test_what_does_nothing_goes(op: str, number: float, first: bool) -> None:
    assert operators(onnxscript_optimize(arithmetic(op, np.float32(number), first=first))) == []


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("op", "number"),
    [
        ("Add", 1e-8),
        ("Add", -1e-8),
        ("Add", 1e-30),
        ("Sub", 1e-12),
        ("Mul", 1 + 2**-23),
        ("Mul", 1 - 2**-24),
        ("Div", 1 + 2**-20),
    ],
)
def test_what_does_a_little_stays(op: str, number: float, first: bool) -> None:
    model = onnxscript_optimize(arithmetic(op, np.float32(number), first=first))
    assert operators(model) == [op]
    x = np.array([[3, 0.5, 1], [1e-8, -1e-8, 7]], np.float32)
    ((found,),) = ([*one.values()] for one in check_and_run(model, [{"x": x}]))
    computed = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op]
    operands = (np.float32(number), x) if first else (x, np.float32(number))
    np.testing.assert_array_equal(found, computed(*operands))


def test_onnxscript_alone_drops_it() -> None:
    """What `_exact_constants` is for, and is to be removed for."""
    model = arithmetic("Add", np.float32(1e-8))
    optimizer.optimize(model)
    assert operators(model) == []


def test_the_norm_of_zeros_is_no_division_by_zero() -> None:
    """x / sqrt(mean(x^2) + 1e-8), as StyleGAN2's paper writes it."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "epsilon"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["y"]),
    ]
    constants = {"axis": np.array([1], np.int64), "epsilon": np.float32(1e-8)}
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnxscript_optimize(ir.from_proto(proto))
    feed = np.array([[0, 0, 0], [1e-4, 2e-4, 2e-4]], np.float32)
    ((found,),) = ([*one.values()] for one in check_and_run(model, [{"x": feed}]))
    np.testing.assert_allclose(found, feed / np.sqrt((feed**2).mean(1, keepdims=True) + np.float32(1e-8)), rtol=1e-6)
