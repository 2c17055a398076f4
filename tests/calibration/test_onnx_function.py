"""An ONNX graph as a function: every form of a graph gives the same, and the graph stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_calibration import onnx_function
from aigc_calibration.onnx_file import save_graph
from aigc_calibration.onnx_function import open_onnx, open_watched, opened_when_called
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


def loads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every session that is loaded from now on: whether its weights are packed."""
    seen: list[bool] = []
    load = onnx_function._load

    def noted(source: str | bytes, threads: int | None, *, optimize: bool, packed: bool) -> Any:
        seen.append(packed)
        return load(source, threads, optimize=optimize, packed=packed)

    monkeypatch.setattr(onnx_function, "_load", noted)
    return seen


def test_a_graph_that_is_never_called_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loads(monkeypatch)
    run = opened_when_called(ir.from_proto(doubled_product()))
    assert not loaded
    np.testing.assert_array_equal(run({"x": X})["y"], run({"x": X})["y"])
    assert len(loaded) == 1


def test_one_session_gives_outputs_and_what_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loads(monkeypatch)
    model = ir.from_proto(doubled_product())
    run, watch = open_watched(model, ["product", "x", "z"])
    outputs, values = run({"x": X}), watch({"x": X})
    assert len(loaded) == 1
    assert outputs.keys() == {"y", "z"}
    assert values.keys() == {"product", "x", "z"}
    np.testing.assert_allclose(values["product"], X @ W, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values["x"], X)
    assert [str(value.name) for value in model.graph.outputs] == ["y", "z"]
    assert open_watched(model, [])[1]({"x": X}) == {}


def asked_of_sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """For every run of a session that is loaded from now on: the results that it gives."""
    runs: list[Any] = []
    make = onnx_function._function

    def counted(session: Any, outputs: Any) -> Any:
        run = make(session, outputs)
        return lambda feeds: runs.append(outputs) or run(feeds)  # type: ignore[func-returns-value]

    monkeypatch.setattr(onnx_function, "_function", counted)
    return runs


@pytest.mark.parametrize("most", [onnx_function.MAX_KEPT_BYTES, 0], ids=["kept", "computed again"])
def test_what_was_computed_for_the_outputs_is_watched(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = asked_of_sessions(monkeypatch)
    monkeypatch.setattr(onnx_function, "MAX_KEPT_BYTES", most)
    run, watch = open_watched(ir.from_proto(doubled_product()), ["product", "z"])
    other = X + 1
    outputs, _ = run({"x": X}), run({"x": other})
    watched = [watch({"x": other}), watch({"x": X}), watch({"x": X})]
    assert len(runs) == (3 if most else 5)  # what was asked for once is not kept, nor what takes much room
    run({"x": X})
    watched.append(watch({"x": X + 1}))  # equal to others, but not the same
    assert len(runs) == (5 if most else 7)
    np.testing.assert_array_equal(watched[1]["z"], outputs["z"])
    for values, x in zip(watched, (other, X, X, other), strict=True):
        assert values.keys() == {"product", "z"}
        np.testing.assert_allclose(values["product"], x @ W, rtol=1e-5, atol=1e-6)


def test_large_values_are_kept_while_each_run_is_asked_for_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = asked_of_sessions(monkeypatch)
    monkeypatch.setattr(onnx_function, "MAX_KEPT_BYTES", 0)
    run, watch = open_watched(ir.from_proto(doubled_product()), ["product"])
    for step in range(4):
        feeds = {"x": X + step}
        run(feeds)
        np.testing.assert_allclose(watch(feeds)["product"], feeds["x"] @ W, rtol=1e-5, atol=1e-6)
    everything, outputs = ["y", "z", "product"], ["y", "z"]
    assert runs == [everything] * 4
    first, second, third = ({"x": X - step} for step in range(3))
    run(first)
    run(second)  # whoever asks for the first now has to run again, and so has whoever comes later
    run(third)
    assert runs == [*[everything] * 5, outputs, outputs]
    np.testing.assert_allclose(watch(third)["product"], third["x"] @ W, rtol=1e-5, atol=1e-6)
    assert runs[-1] == everything
    run(first)
    assert runs[-1] == outputs


@pytest.mark.parametrize(("threshold", "packed"), [(0, False), (1 << 31, True)])
def test_large_weights_are_held_once(threshold: int, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loads(monkeypatch)
    monkeypatch.setattr(onnx_function, "save_graph", partial(save_graph, threshold=threshold))
    model = ir.from_proto(doubled_product())
    open_onnx(model)
    open_watched(model, ["product"])
    open_onnx(model, packed=True)
    assert loaded == [packed, packed, True]
