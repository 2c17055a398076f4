"""Sessions ask for exact products where, and only where, the processor's own kernels saturate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from aigc_runtime.backends.ort import open as ort_open
from aigc_runtime.backends.ort.exact_products import EXACT_PRODUCTS, PROBE, products_saturate
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.tensors import Array
from aigc_runtime.opening import open_session


def exact(x: Array) -> Array:
    return x.astype(np.int32) @ np.full((4, 4), 127, dtype=np.int32)


def in_pairs(x: Array) -> Array:
    """vpmaddubsw, then vpmaddwd with ones (Intel's manual, volume 2): sums of two products, saturated at 16 bits."""
    w = np.full((4, 4), 127, dtype=np.int32)
    products = x.astype(np.int32)[:, :, None] * w[None]
    sums: Array = np.clip(products[:, 0::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(axis=1)
    return sums


def in_pairs_of_single_rows(x: Array) -> Array:
    return in_pairs(x) if len(x) == 1 else exact(x)


class Missing(Exception):
    pass


def refused(_: Array) -> Array:
    raise Missing("no kernel for MatMulInteger")


def engine(multiply: Any) -> Any:
    """An ONNX Runtime with these kernels."""

    class InferenceSession:
        def __init__(self, model: bytes, options: Any, providers: list[str]) -> None:
            assert (model, providers) == (PROBE, ["CPUExecutionProvider"])

        def run(self, _names: None, feeds: Mapping[str, Array]) -> list[Array]:
            return [multiply(feeds["x"])]

    made = ModuleType("onnxruntime")
    made.__dict__.update(SessionOptions=onnxruntime.SessionOptions, InferenceSession=InferenceSession)
    return made


@pytest.mark.parametrize(
    ("multiply", "saturates"),
    [(exact, False), (in_pairs, True), (in_pairs_of_single_rows, True), (refused, True)],
)
def test_the_probe_tells_kernels_apart(multiply: Any, saturates: bool) -> None:
    assert products_saturate(engine(multiply)) is saturates


def test_the_probe_is_the_graph_that_it_is_said_to_be() -> None:
    onnx = pytest.importorskip("onnx", reason="the bare runtime has no onnx")
    model = onnx.load_from_string(PROBE)
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    weight, *zeros = model.graph.initializer
    assert (node.op_type, list(node.input), list(node.output)) == ("MatMulInteger", ["x", "w", "a", "b"], ["y"])
    assert [(zero.name, onnx.numpy_helper.to_array(zero).tolist()) for zero in zeros] == [("a", 0), ("b", 0)]
    assert (onnx.numpy_helper.to_array(weight) == np.full((4, 4), 127, dtype=np.int8)).all()
    assert onnx.numpy_helper.to_array(weight).dtype == np.int8
    types = [v.type.tensor_type.elem_type for v in (model.graph.input[0], model.graph.output[0])]
    assert types == [onnx.TensorProto.UINT8, onnx.TensorProto.INT32]


def test_the_probe_computes_what_it_should_with_exact_products() -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    session = onnxruntime.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    for rows in (1, 2):
        x = np.full((rows, 4), 255, dtype=np.uint8)
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], exact(x))


@pytest.mark.parametrize("saturates", [True, False])
def test_a_session_asks_for_exact_products_only_where_they_are_not(
    saturates: bool, toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_open, "products_saturate", lambda _: saturates)
    made: list[Any] = []

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    open_session(Bundle.open(toy_bundles / "toy_gan"), threads=1).close()
    (options,) = made
    if saturates:
        assert options.get_session_config_entry(EXACT_PRODUCTS) == "1"
    else:
        with pytest.raises(RuntimeError, match=EXACT_PRODUCTS):
            options.get_session_config_entry(EXACT_PRODUCTS)
