"""16-bit and fp8 graphs: rounded as numpy rounds, in the form each engine takes, float where numbers are too large."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import find_sites
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, initializer, make_graph
from .formats import asked

FORMATS = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
CONFIG = QuantConfig()


@pytest.mark.parametrize("precision", list(FORMATS))
def test_weights_are_stored_in_16_bits_and_the_product_is_float(
    precision: SitePrecision, rng: np.random.Generator
) -> None:
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((16, 5), (3, 16)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    model = make_graph(nodes, {"w": weight}, {"x": ["n", 16]}, {"y": ["n", 5]})
    found = quantize(model, Batches(({"x": x},)), CONFIG, precision=precision)
    kind = FORMATS[precision]
    expected = x.astype(np.float64) @ weight.astype(kind).astype(np.float64)
    np.testing.assert_allclose(open_onnx(found.graph)({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)
    assert initializer(found.graph, f"w_{precision}").nbytes == weight.nbytes // 2
    assert "w" not in found.graph.graph.initializers
    # ONNX Runtime multiplies in float on this processor, and the coverage says so.
    assert (found.coverage.planned, found.coverage.executed) == (1.0, 0.0)


@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 65), ("bf16", 45), ("fp8", 20)])
def test_a_network_stays_close(precision: SitePrecision, least_db: float, network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    found = quantize(model, data, CONFIG, precision=precision)
    for feeds in data.feeds:
        a, b = (open_onnx(g)(feeds)["y"] for g in (model, found.graph))
        assert compare_arrays(a, b).sqnr_db > least_db


def test_the_tensorrt_form_multiplies_in_16_bits(network: tuple[ir.Model, Batches]) -> None:
    """In fp16; ONNX takes bf16 convolutions from opset 22 on only."""
    model, data = network
    plan = quantize(model, data, CONFIG, precision="fp16").plan
    from aigc_calibration.prepare import prepare

    proto = ir.to_proto(emit(prepare(model), plan, {}, asked("tensorrt")["form"]))
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    types.update({t.name: t.data_type for t in inferred.graph.initializer})
    kind = onnx.TensorProto.FLOAT16
    sites = [n for n in proto.graph.node if n.op_type in {"Conv", "ConvTranspose", "MatMul", "Gemm"}]
    assert len(sites) == 5
    for node in sites:
        assert {types[name] for name in (*node.input, *node.output)} == {kind}, node.name
    for node in proto.graph.node:
        if node.op_type == "Relu":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
    assert [(o.name, o.type.tensor_type.elem_type) for o in proto.graph.output] == [("y", onnx.TensorProto.FLOAT)]


def test_the_tensorrt_form_runs_in_fp16(network: tuple[ir.Model, Batches]) -> None:
    """ONNX Runtime inserts casts where it has no kernel, so the graph itself can be judged."""
    model, data = network
    plan = quantize(model, data, CONFIG, precision="fp16").plan
    run = open_onnx(emit(model, plan, {}, asked("tensorrt")["form"]))
    for feeds in data.feeds:
        assert compare_arrays(open_onnx(model)(feeds)["y"], run(feeds)["y"]).sqnr_db > 55


def overflowing(factor: float) -> tuple[ir.Model, Batches]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "large"),
        helper.make_node("Mul", ["h", "small"], ["s"], "scale"),
        helper.make_node("MatMul", ["s", "w2"], ["y"], "sane"),
    ]
    constants: dict[str, Array | np.generic] = {
        "w1": normal(8, 8) * np.float32(factor),
        "small": np.float32(1 / factor),
        "w2": normal(8, 4),
    }
    model = make_graph(nodes, constants, {"x": ["n", 8]}, {"y": ["n", 4]})
    return model, Batches(({"x": normal(16, 8)},) * 2)


def test_what_overflows_stays_float() -> None:
    model, data = overflowing(1e5)
    found = quantize(model, data, CONFIG, precision="fp16")
    assert {o.node: o.precision for o in found.plan.ops} == {"large": "float", "sane": "fp16"}
    assert found.plan.ops[0].why.startswith("'h' reaches ")
    assert np.isfinite(open_onnx(found.graph)(data.feeds[0])["y"]).all()
    assert {o.precision for o in quantize(model, data, CONFIG, precision="bf16").plan.ops} == {"bf16"}
    assert {o.precision for o in quantize(*overflowing(10.0), CONFIG, precision="fp16").plan.ops} == {"fp16"}


def test_fp8_codes_are_ml_dtypes(rng: np.random.Generator) -> None:
    weight, x = (rng.standard_normal(s).astype(np.float32) for s in ((16, 5), (3, 16)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    model = make_graph(nodes, {"w": weight}, {"x": ["n", 16]}, {"y": ["n", 5]})
    found = quantize(model, Batches(({"x": x},)), CONFIG, precision="fp8")
    scale = float(initializer(found.graph, "x_scale").numpy())
    assert scale == pytest.approx(np.abs(x).max() / 448)
    stored = initializer(found.graph, "w_quantized").numpy()
    assert stored.dtype == ml_dtypes.float8_e4m3fn
    rounded = (x / np.float32(scale)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    expected = rounded @ (stored.astype(np.float32) * initializer(found.graph, "w_scale").numpy())
    np.testing.assert_allclose(open_onnx(found.graph)({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    assert len(find_sites(model)) == 1


def test_the_tensorrt_form_has_no_bf16_conv_transpose(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    found = quantize(model, data, CONFIG, precision="bf16", **asked("tensorrt-rtx"))
    assert {op.op_type for op in found.plan.ops if op.precision == "float"} == {"ConvTranspose"}
    assert found.coverage.executed is None  # ONNX Runtime has no say in it
    assert "planned in low precision" in str(found.coverage)
