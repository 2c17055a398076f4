"""What ONNX Runtime makes of a quantized graph: nothing that the plan does not say."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import executed_sites
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_calibration.rewritten import _key, _real, _sum, silent_changes
from aigc_runtime.backends.ort.open import import_onnxruntime, open_native
from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph
from .formats import FORMATS


def chain(op: str, rng: np.random.Generator) -> tuple[ir.Model, Batches]:
    """Three layers without anything between them; a channel of the second is a thousand times smaller."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    small = normal(4, 4, 3, 3)
    small[:, 1] *= 1e-3
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        helper.make_node(op, ["c1", "w2", "b2"], ["c2"], "second", pads=[1] * 4),
        helper.make_node("Conv", ["c2", "w3", "b3"], ["c3"], "third", pads=[1] * 4),
        helper.make_node("Tanh", ["c3"], ["y"], "tanh"),
    ]
    constants = {"w1": normal(4, 2, 3, 3), "w2": small, "w3": normal(4, 4, 3, 3)}
    constants |= {"b1": normal(4), "b2": normal(4), "b3": normal(4)}
    model = make_graph(nodes, constants, {"x": ["n", 2, 4, 4]}, {"y": ["n", 4, 4, 4]})
    return model, Batches(({"x": normal(8, 2, 4, 4)},))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_float_layer_between_quantized_ones_stays_float(op: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """In the engine as a device opens it. ONNX Runtime by itself rounds the weight to one scale for all channels."""
    model, data = chain(op, rng)
    plan = make_plan(model, collect(model, data, watched(model, attention=True)), QuantConfig(), precision="int8")
    plan = plan.with_float({"second": "kept"})
    proto = ir.to_proto(emit(model, plan, round_weights(model, plan), FORMATS["ort-cpu"]))
    feeds = data.feeds[0]
    literal = open_onnx(ir.from_proto(proto), optimize=False)(feeds)["y"]
    session, _ = open_native(import_onnxruntime(), proto.SerializeToString(), provider=PROVIDERS["cpu"], threads=1)
    # Sums of integers are exact, so that only a code on an edge can fall to the other side.
    assert compare_arrays(literal, session.run(None, feeds)[0]).sqnr_db > 60
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = {name for node in onnx.load(tmp_path / "optimized.onnx").graph.node for name in node.input}
    assert any(name.startswith("second_weight_q") for name in made)  # what would happen without the option


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_an_engine_that_rounds_what_the_plan_leaves_float_is_an_error(
    op: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = chain(op, rng)
    plan = make_plan(model, collect(model, data, watched(model, attention=True)), QuantConfig(), precision="int8")
    plan = plan.with_float({"second": "kept"})
    graph = emit(model, plan, round_weights(model, plan), FORMATS["ort-cpu"])
    assert executed_sites(graph, plan) == {"first", "third"}
    monkeypatch.setattr("aigc_calibration.integer_products.leave_out_rewrites", lambda options: None)
    with pytest.raises(PlanError, match=r"would not compute what the plan says: .*'second' has a constant in low prec"):
        executed_sites(graph, plan)


def integer_graphs(rng: np.random.Generator) -> tuple[onnx.ModelProto, onnx.ModelProto, QuantizationPlan]:
    """A Gemm as it is emitted, and as ONNX Runtime writes it: by hand, with the same constants."""
    weight, bias = rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm")
    model = make_graph([gemm], {"w": weight, "b": bias}, {"x": ["n", 4]}, {"y": ["n", 3]})
    data = Batches(({"x": rng.standard_normal((8, 4)).astype(np.float32)},))
    plan = make_plan(model, collect(model, data, watched(model, attention=True)), QuantConfig(), precision="int8")
    emitted = ir.to_proto(emit(model, plan, round_weights(model, plan), FORMATS["ort-cpu"]))
    optimized = onnx.ModelProto()
    optimized.CopyFrom(emitted)
    del optimized.graph.node[:]
    names = ["x_quantized", "x_scale", "x_zero_point", "w_quantized", "w_scale", "w_zero_point", "gemm_bias_quantized"]
    optimized.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero_point"], ["x_quantized"], "x_quantize"),
            helper.make_node("QGemm", names, ["y"], "gemm_token_1", domain="com.microsoft"),
        ]
    )
    return emitted, optimized, plan


@pytest.mark.parametrize(
    ("constant", "found"),
    [
        ("w_quantized", "'gemm' has a constant in low precision that is not in the plan"),
        ("w_scale", "'gemm' has a constant in low precision that is not in the plan"),
        ("gemm_bias_quantized", "the bias of 'gemm' has other codes"),
        ("x_scale", "'gemm' rounds to steps of .*, unplanned"),
        ("x_zero_point", "'gemm' rounds to steps of .*, unplanned"),
    ],
)
def test_every_quantized_constant_is_compared(constant: str, found: str, rng: np.random.Generator) -> None:
    emitted, optimized, plan = integer_graphs(rng)
    assert silent_changes(emitted, optimized, plan) == ()
    tensor = next(t for t in optimized.graph.initializer if t.name == constant)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, constant))
    changes = silent_changes(emitted, optimized, plan)
    assert any(re.fullmatch(found, change) for change in changes), changes


def test_codes_moved_to_unsigned_numbers_are_the_same(rng: np.random.Generator) -> None:
    """As ONNX Runtime moves them for exact products, with a zero point of 128."""
    emitted, optimized, plan = integer_graphs(rng)
    for tensor in optimized.graph.initializer:
        if tensor.name in {"w_quantized", "w_zero_point"}:
            moved = (onnx.numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    assert silent_changes(emitted, optimized, plan) == ()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32", "int32"])
def test_numbers_are_known_again_in_any_order(dtype: str, rng: np.random.Generator) -> None:
    values = rng.integers(-100, 100, (300, 301)).astype(dtype)
    assert _key(values) == _key(values.T) == _key(rng.permutation(values.reshape(-1)))
    for other in (values[:-1], np.where(values == 1, 2, values).astype(dtype), np.zeros_like(values)):
        assert _key(values) != _key(other)
    swapped = values.copy()  # the same sum, other numbers
    swapped.flat[:2] += np.array([1, -1]).astype(dtype)
    assert (_key(values) == _key(swapped)) == (sorted(values.flat[:2]) == sorted(swapped.flat[:2]))


def test_both_zeros_are_the_same_number() -> None:
    assert _key(np.array([0.0, 1.0], np.float32)) == _key(np.array([1.0, -0.0], np.float32))


@pytest.mark.parametrize(("axis", "block"), [(0, 0), (1, 0), (0, 4), (1, 4)])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_codes_are_dequantized_a_few_rows_at_once(
    axis: int, block: int, rows: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = rng.integers(0, 255, (10, 6), dtype=np.uint8)
    sizes = list(codes.shape)
    sizes[axis] = -(-sizes[axis] // block) if block else sizes[axis]
    shape = tuple(sizes) if block else (sizes[axis],)
    scales, zeros = rng.random(shape, dtype=np.float32), rng.integers(0, 255, shape, dtype=np.uint8)
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=axis, block_size=block)
    graph = helper.make_graph(
        [node],
        "dequantize",
        [],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, codes.shape)],
        [onnx.numpy_helper.from_array(a, n) for a, n in ((codes, "w"), (scales, "s"), (zeros, "z"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    expected = np.asarray(next(iter(onnx.reference.ReferenceEvaluator(model).run(None, {}))))
    monkeypatch.setattr("aigc_calibration.rewritten._CHUNK", rows * 6)
    pieces = list(_real(node, codes, scales, zeros))
    assert [len(piece) for piece in pieces] == [len(codes[i : i + rows]) for i in range(0, 10, rows)]
    np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=1e-6)
    assert _sum(map(_key, pieces)) == _key(np.concatenate(pieces))


def test_memory_does_not_grow_with_the_weights() -> None:
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1)
    codes, scales = np.ones((2**16, 64), np.int8), np.ones(64, np.float32)
    tracemalloc.start()
    _sum(map(_key, _real(node, codes, scales, None)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < codes.nbytes  # as float64 they would take 8 times that
