"""The digest of a graph is that of what it computes, in bodies and functions too, and the same in every process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from aigc_calibration.digest import graph_digest

from ..inner_graphs import INNER, body

NAMES = tuple(INNER)


@pytest.mark.parametrize("name", NAMES)
def test_equal_graphs_have_equal_digests(name: str) -> None:
    first, second = (INNER[name].model() for _ in range(2))
    assert graph_digest(first) == graph_digest(second) == graph_digest(first.clone())


def _scaled(tensor: onnx.TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))


def inner_constant(model: onnx.ModelProto) -> None:
    _scaled(body(model.graph, "then_body").initializer[0])


def inner_operator(model: onnx.ModelProto) -> None:
    body(model.graph, "step").node[-1].op_type = "Sigmoid"


def inner_attribute(model: onnx.ModelProto) -> None:
    node = next(n for n in body(model.graph, "step").node if n.op_type == "Conv")
    node.attribute[0].ints[:] = [1, 1, 1, 2]


def function_constant(model: onnx.ModelProto) -> None:
    constant = next(n for f in model.functions for n in f.node if n.op_type == "Constant")
    _scaled(constant.attribute[0].t)


def function_operator(model: onnx.ModelProto) -> None:
    next(n for f in model.functions for n in f.node if n.op_type == "Relu").op_type = "Neg"


def argument_of_a_call(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].f = 0.75


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("if", inner_constant),
        ("nested", inner_constant),
        ("loop", inner_operator),
        ("loop", inner_attribute),
        ("function", function_constant),
        ("function", function_operator),
        ("function", argument_of_a_call),
    ],
)
def test_a_change_inside_changes_the_digest(name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    proto = INNER[name].proto()
    before = graph_digest(ir.from_proto(proto))
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    change(changed)
    assert graph_digest(ir.from_proto(changed)) != before


def test_large_constants_of_nodes_count_to_the_last_number() -> None:
    """Python shows a large array without its middle."""

    def model(middle: float) -> ir.Model:
        values = np.zeros(5000, np.float32)
        values[2500] = middle
        node = onnx.helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(values))
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5000])
        graph = onnx.helper.make_graph([node], "g", [], [output])
        return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]))

    assert graph_digest(model(0)) != graph_digest(model(1))
    assert graph_digest(model(1)) == graph_digest(model(1))


def test_another_process_finds_the_same() -> None:
    """What Python shows of an object may hold its address."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from inner_graphs import INNER; from aigc_calibration.digest import graph_digest\n"
        f"print([graph_digest(INNER[n].model()) for n in {NAMES!r}])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str([graph_digest(INNER[n].model()) for n in NAMES])


@pytest.mark.parametrize(
    "name",
    ["FLOAT", "FLOAT16", "BFLOAT16", "INT64", "BOOL", "FLOAT8E4M3FN", "INT4", "UINT4"],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_count_as_the_bytes_that_a_file_holds(name: str, transposed: bool) -> None:
    dtype = ir.DataType[name]
    values = np.arange(12).reshape(3, 4) % 2
    array = values.astype(dtype.numpy())
    tensor = ir.Tensor(array.T if transposed else array, dtype=dtype, name="w")
    weight = ir.Value(name="w", const_value=tensor, shape=tensor.shape, type=ir.TensorType(dtype))
    node = ir.node("Identity", [weight])
    graph = ir.Graph([], [node.outputs[0]], nodes=[node], initializers=[weight], opset_imports={"": 21}, name="g")
    output = node.outputs[0]
    told = f"{output.name}:{output.dtype}:{output.shape}\nw:{dtype}:{tensor.shape}\n".encode()
    told += tensor.tobytes() + f":Identity::['w']:{[output.name]}\n".encode()
    assert graph_digest(ir.Model(graph, ir_version=10)) == hashlib.sha256(told).hexdigest()


def test_strings_count() -> None:
    def model(word: bytes) -> ir.Model:
        node = onnx.helper.make_node("Constant", [], ["y"], value_strings=[b"one", word])
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [2])
        held = numpy_helper.from_array(np.array([word.decode()], dtype=object), "s")
        graph = onnx.helper.make_graph([node], "g", [], [output], [held])
        return ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]))

    assert graph_digest(model(b"two")) == graph_digest(model(b"two")) != graph_digest(model(b"three"))
