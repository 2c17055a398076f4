"""Whole rows of codes are multiplied by tokens that are rounded with one scale each."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from aigc_calibration.blocks import to_matmul_nbits
from aigc_calibration.edit import add_constant
from aigc_calibration.grids import GRIDS
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import copy_graph
from aigc_calibration.weights import QuantizedWeight, round_to_blocks
from aigc_export.graphs.passes.decoder.row_products import has_row_products, multiply_rows
from aigc_runtime.backends.ort.exact_products import products_saturate
from aigc_runtime.core.tensors import Array

from .decoders import operators
from .texts import graph, value

COLUMNS = 40
WEIGHTS = ("w0", "w1")


def rounded(
    width: int, *, block: int | None = None, grid: Literal["int8", "int4"] = "int8", name: str = "w0"
) -> QuantizedWeight:
    rng = np.random.default_rng(len(name) + int(name[-1]))
    weight = rng.standard_normal((width, COLUMNS)).astype(np.float32)
    return round_to_blocks(name, weight, GRIDS[grid], block or width)


def products(*weights: QuantizedWeight, steps: str = "s", bias: bool = False) -> ir.Model:
    """x times some weights in blocks."""
    width = len(weights[0].codes)
    named = ", ".join(f"float[{width},{COLUMNS}] {one.name}" for one in weights)
    made = ", ".join(f"float[b,{steps},{COLUMNS}] y{one.name[-1]}" for one in weights)
    nodes = " ".join(f"y{one.name[-1]} = MatMul(x, {one.name})" for one in weights)
    model = graph(f"float[b,{steps},{width}] x, {named} => {made}", nodes)
    for weight in weights:
        given = next(one for one in model.graph.inputs if one.name == weight.name)
        model.graph.inputs.remove(given)
        given.const_value = ir.tensor(np.zeros(weight.codes.shape, dtype=np.float32), name=weight.name)
        model.graph.register_initializer(given)
        node = value(model, f"y{weight.name[-1]}").producer()
        assert node is not None
        if bias:
            node.resize_inputs(3)
            node.replace_input_with(2, add_constant(model.graph, "bias", np.arange(COLUMNS, dtype=np.float32)))
        to_matmul_nbits(model.graph, node, weight)
        del model.graph.initializers[weight.name]
    return model


def tokens(width: int, *, rows: int = 3) -> Array:
    x = np.random.default_rng(1).standard_normal((2, rows, width)).astype(np.float32)
    x[0, 0] = 0
    x[1, 0] *= 1000  # a loud token leaves the others their codes
    return x


def run(model: ir.Model, x: Array) -> dict[str, Array]:
    return dict(open_onnx(model, optimize=False, packed=False)({"x": x}))


def codes(model: ir.Model) -> Array:
    """The constant of codes, which is the largest of bytes."""
    bytes_of = (one.const_value for one in model.graph.initializers.values() if one.dtype == ir.DataType.UINT8)
    return max((one.numpy() for one in bytes_of if one is not None), key=np.size)


def expected(weight: QuantizedWeight, x: Array) -> Array:
    """In float64: codes of each token around zero, one scale for each."""
    scales = np.abs(x).max(axis=-1, keepdims=True).astype(np.float64) / 127
    codes = np.rint(np.divide(x, scales, out=np.zeros(x.shape), where=scales > 0))
    return np.asarray(codes * scales @ weight.dequantize().astype(np.float64))


@pytest.mark.parametrize("width", [64, 128, 192, 576])
def test_each_token_has_one_scale(width: int) -> None:
    weight, x = rounded(width), tokens(width)
    before = products(weight)
    after = multiply_rows(before, "s")
    assert operators(after, "QGemm") == 1
    assert not operators(after, "MatMulNBits")
    assert has_row_products(after)
    assert not has_row_products(before)
    found, wanted = run(after, x)["y0"], expected(weight, x)
    # A number that lies between two codes may take either in float32.
    step = np.abs(x).max(axis=-1, keepdims=True) / 127 * np.abs(weight.dequantize()).max()
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= 0.51 * step + 1e-4 * np.abs(wanted)).all()
    assert (found[0, 0] == 0).all()
    np.testing.assert_allclose(found[0, 1:], wanted[0, 1:], atol=0.02)


def test_the_largest_codes_do_not_saturate() -> None:
    """Where a processor's kernels do, another engine stands in: tests/runtime/core/test_program.py."""
    if products_saturate(onnxruntime):
        pytest.skip("this processor's kernels saturate")
    weight = rounded(64)
    codes = np.full_like(weight.codes, 127)
    weight = replace(weight, codes=codes, scales=np.ones_like(weight.scales))
    x = np.full((1, 30, 64), 127, dtype=np.float32)
    assert (run(multiply_rows(products(weight), "s"), x)["y0"] == 64 * 127 * 127).all()


def test_a_weight_has_the_bytes_that_it_had_in_blocks() -> None:
    """So that one file of weights serves both forms."""
    before = products(rounded(192))
    after = multiply_rows(before, "s")
    stored = [codes(model) for model in (before, after)]
    assert [one.shape for one in stored] == [(COLUMNS, 3, 64), (COLUMNS, 192)]
    assert stored[0].tobytes() == stored[1].tobytes()


def test_products_of_one_value_share_its_codes() -> None:
    weights = [rounded(64, name=name) for name in WEIGHTS]
    after = multiply_rows(products(*weights), "s")
    assert [operators(after, name) for name in ("QGemm", "QuantizeLinear")] == [2, 1]
    x = tokens(64)
    found = run(after, x)
    for weight, name in zip(weights, ("y0", "y1"), strict=True):
        np.testing.assert_allclose(found[name][0, 1:], expected(weight, x)[0, 1:], atol=0.02)


def test_a_bias_is_added() -> None:
    weight, x = rounded(64), tokens(64)
    found = run(multiply_rows(products(weight, bias=True), "s"), x)["y0"]
    np.testing.assert_allclose(found[0], expected(weight, x)[0] + np.arange(COLUMNS), atol=0.02)


def test_any_number_of_tokens() -> None:
    weight = rounded(64)
    after = multiply_rows(products(weight), "s")
    for rows in (1, 2, 31):
        x = tokens(64, rows=rows)
        np.testing.assert_allclose(run(after, x)["y0"][0], expected(weight, x)[0], atol=0.02)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: products(rounded(192, block=64)), id="a scale for each block"),
        pytest.param(lambda: products(rounded(64, grid="int4")), id="4 bits"),
        pytest.param(lambda: products(rounded(64), steps="kept"), id="other places than the new steps"),
        pytest.param(lambda: graph("float[b,s,8] x => float[b,s,8] y", "y = Neg(x)"), id="no product"),
    ],
)
def test_others_stay(model: object) -> None:
    made = model()  # type: ignore[operator]
    assert multiply_rows(made, "s") is made


def test_an_engine_without_steps_stays_and_no_graph_is_changed() -> None:
    before = products(rounded(64))
    kept = [node.op_type for node in copy_graph(before).graph]
    assert multiply_rows(before, None) is before
    multiply_rows(before, "s")
    assert [node.op_type for node in before.graph] == kept
