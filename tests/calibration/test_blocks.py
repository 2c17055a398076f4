"""Weights in blocks behind a DequantizeLinear run on every processor."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_file import to_proto
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.quantize import quantize
from aigc_runtime.backends.ort.exact_products import EXACT_PRODUCTS
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph


def convolution() -> tuple[ir.Model, Array]:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 8, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)
    model = make_graph([node], {"w": weight}, {"x": ["n", 8, 5, 5]}, {"y": ["n", 6, 5, 5]})
    return model, rng.standard_normal((4, 8, 5, 5)).astype(np.float32)


def exactly(model: ir.Model, feeds: dict[str, Array]) -> Array:
    """The first result in ONNX Runtime, as it runs on processors whose 8-bit products would saturate."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    raw = to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("precision", ["int8-weight", "int4-weight"])
def test_blocks_run_on_processors_whose_products_would_saturate(precision: SitePrecision) -> None:
    model, x = convolution()
    found = quantize(model, Batches(({"x": x},)), QuantConfig(), precision=precision).graph
    expected = open_onnx(found, optimize=False)({"x": x})["y"]
    assert compare_arrays(expected, exactly(found, {"x": x})).sqnr_db > 100


def test_blocks_of_8_bits_without_zero_points_do_not() -> None:
    model, x = convolution()
    found = quantize(model, Batches(({"x": x},)), QuantConfig(), precision="int8-weight").graph
    node = next(node for node in found.graph if node.op_type == "DequantizeLinear")
    node.resize_inputs(2)
    with pytest.raises(Exception, match="x_zero_point must be null or have the same rank"):
        exactly(found, {"x": x})
