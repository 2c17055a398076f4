"""onnxslim sees a graph of many weights without the large ones, and they come back as they were."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import onnx_ir as ir
import onnxslim
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration.onnx_function import open_onnx
from aigc_export.graphs.passes.slim import slim

slim_module = import_module("aigc_export.graphs.passes.slim")  # the package has the function by that name


def graph() -> ir.Model:
    """`relu(x W) W2 + conv(...)`: products of large weights, a chain of reshapes, and a normalized convolution."""
    rng = np.random.default_rng(0)
    constants = {
        "first": rng.standard_normal((64, 64), dtype=np.float32),
        "second": rng.standard_normal((64, 64), dtype=np.float32),
        "kernel": rng.standard_normal((8, 1, 3, 3), dtype=np.float32),
        **{name: rng.uniform(0.5, 1.5, 8).astype(np.float32) for name in ("gain", "shift", "mean", "variance")},
        "image": np.array([-1, 1, 8, 8]),
        "flat": np.array([-1, 64]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["b"], name="b"),
        helper.make_node("Reshape", ["b", "flat"], ["c"], name="c"),
        helper.make_node("MatMul", ["c", "second"], ["d"], name="d"),
        helper.make_node("Reshape", ["d", "image"], ["e"], name="e"),
        helper.make_node("Conv", ["e", "kernel"], ["f"], name="f"),
        helper.make_node("BatchNormalization", ["f", "gain", "shift", "mean", "variance"], ["y"], name="g"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 6, 6])]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, initializers), opset_imports=[helper.make_opsetid("", 20)]
    )
    return ir.from_proto(made)


def test_large_weights_are_never_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim_module, "STAND_IN_THRESHOLD", 1)
    monkeypatch.setattr(slim_module, "LARGE_BYTES", 64 * 64 * 4)
    sizes: list[int] = []
    own = onnxslim.slim

    def watched(model: object) -> object:
        sizes.append(model.ByteSize())  # type: ignore[attr-defined]
        return own(model)

    monkeypatch.setattr(onnxslim, "slim", watched)
    model = graph()
    weights = {name: model.graph.initializers[name].const_value for name in ("first", "second")}
    slimmed = slim(model)
    assert sizes[0] < 64 * 64 * 4
    assert {name: slimmed.graph.initializers[name].const_value for name in weights} == weights
    assert [value.name for value in slimmed.graph.inputs] == ["x"]
    assert "BatchNormalization" not in {node.op_type for node in slimmed.graph}
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64), dtype=np.float32)}
    before, after = (open_onnx(one, optimize=False)(feeds)["y"] for one in (model, slimmed))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_small_graph_is_seen_whole() -> None:
    assert "BatchNormalization" not in {node.op_type for node in slim(graph()).graph}


@pytest.mark.parametrize(("folded", "held"), [(None, True), ("Add", False), ("Mul", False), ("both", True)])
def test_weights_of_convolutions_are_left_out_unless_something_is_folded_into_them(
    monkeypatch: pytest.MonkeyPatch, folded: str | None, held: bool
) -> None:
    """`Conv(x, kernel)`, then times or plus one constant for each channel, or plus itself ("both")."""
    monkeypatch.setattr(slim_module, "STAND_IN_THRESHOLD", 1)
    monkeypatch.setattr(slim_module, "LARGE_BYTES", 1024)
    kernel = np.random.default_rng(0).standard_normal((8, 4, 3, 3), dtype=np.float32)
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["f"], name="f")]
    if folded == "both":
        nodes.append(helper.make_node("Add", ["f", "f"], ["y"], name="g"))
    else:
        nodes.append(helper.make_node(folded or "Relu", ["f", "each"] if folded else ["f"], ["y"], name="g"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 6, 6])]
    each = np.arange(1, 9, dtype=np.float32).reshape(1, 8, 1, 1)
    initializers = [numpy_helper.from_array(array, name) for name, array in {"kernel": kernel, "each": each}.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]))
    seen: list[set[str]] = []
    own = onnxslim.slim

    def watched(message: object) -> object:
        seen.append({one.name for one in message.graph.initializer})  # type: ignore[attr-defined]
        return own(message)

    monkeypatch.setattr(onnxslim, "slim", watched)
    slimmed = slim(model)
    assert ("kernel" not in seen[0]) == held
    assert len(list(slimmed.graph)) == (1 if folded in {"Add", "Mul"} else 2)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 4, 8, 8), dtype=np.float32)}
    before, after = (open_onnx(one, optimize=False)(feeds)["y"] for one in (model, slimmed))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_graph_that_no_message_holds_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim_module, "MESSAGE_BYTES", 1024)
    model = graph()
    assert slim(model) is model
