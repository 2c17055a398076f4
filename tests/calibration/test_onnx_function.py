"""An ONNX graph as a function: every form of a graph gives the same, and the graph stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration import onnx_function
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx
from aigc_runtime.errors import EngineError

W = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)


def doubled_product() -> onnx.ModelProto:
    """y = 2 x W, z = -y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "product"], ["y"]),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 500]) for name in ("y", "z")],
        [numpy_helper.from_array(W, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("form", ["model", "file", "file and external data", "bytes"])
def test_every_form_of_a_graph_gives_the_same(
    form: str, optimize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = doubled_product()
    model, source = ir.from_proto(proto), None
    if form == "bytes":
        source = proto.SerializeToString()
    elif form.startswith("file"):
        paths = save_graph(model, tmp_path / "model.onnx", threshold=0 if "external" in form else 1 << 31)
        assert len(paths) == (2 if "external" in form else 1)
        source = paths[0]
    run = open_onnx(model if source is None else source, threads=1, optimize=optimize)
    found = run({"x": X, "no input": X})
    np.testing.assert_allclose(found["y"], 2 * X @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["z"], -found["y"])
    assert found.keys() == {"y", "z"}


def test_a_model_too_large_for_one_message_goes_through_external_data(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def save(model: ir.Model, path: Path) -> list[Path]:
        paths = save_graph(model, path, threshold=0)
        written.append(len(paths))
        return paths

    monkeypatch.setattr(onnx_function, "save_graph", save)
    found = open_onnx(ir.from_proto(doubled_product()), threads=1)({"x": X})
    np.testing.assert_allclose(found["y"], 2 * X @ W, rtol=1e-5, atol=1e-6)
    assert written == [2]


def test_results_are_chosen_and_inner_values_exposed() -> None:
    model = ir.from_proto(doubled_product())
    before = ir.to_proto(model).SerializeToString()
    opened = partial(open_onnx, model, threads=1, optimize=False)
    assert opened(outputs=["z"])({"x": X}).keys() == {"z"}
    found = opened(expose=["product", "x", "y"])({"x": X})
    assert found.keys() == {"y", "z", "product", "x"}
    np.testing.assert_allclose(found["product"], X @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["x"], X)
    assert ir.to_proto(model).SerializeToString() == before


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    for source in (b"no graph", tmp_path / "model.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(EngineError, match="cannot load the graph"):
            open_onnx(source)
