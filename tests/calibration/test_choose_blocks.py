"""A block of an 8-bit weight is as large as what it is multiplied with allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.choose_blocks import (
    MOST_NOISE,
    MOST_ROW_NOISE,
    choose_blocks,
    largest_block,
    rounded_rows,
    whole_row,
)
from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.quantize import quantize
from aigc_calibration.weight_only import weight_plan
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

CHOSEN = QuantConfig(block=None, weight_method="rtn")


def rows(width: int, *, loud: Sequence[int] = (), count: int = 64) -> Array:
    found = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    found[:, list(loud)] *= 100
    return found


def weight(width: int, columns: int = 24) -> Array:
    return np.random.default_rng(1).standard_normal((width, columns)).astype(np.float32)


def test_normal_numbers_take_large_blocks() -> None:
    block, noise = largest_block(rows(256), [weight(256)])
    assert block == 128
    assert noise == pytest.approx(1.44, abs=0.03)
    block, noise = largest_block(rows(192), [weight(192)])
    assert block == 64
    assert noise == pytest.approx(1.2, abs=0.03)


def test_numbers_of_one_magnitude_take_the_largest() -> None:
    even = np.random.default_rng(2).uniform(0.5, 1, (64, 256)).astype(np.float32)
    assert largest_block(even, [np.sign(weight(256))])[0] == 128
    assert largest_block(np.sign(even), [np.sign(weight(256))]) == (32, 1.0)  # nothing is lost, nothing is compared


def test_a_few_loud_channels_keep_the_smallest() -> None:
    """Each is in a block of 32 of its own, and beside more quiet ones in a larger block."""
    assert largest_block(rows(256, loud=(0, 70, 140)), [weight(256)]) == (32, 1.0)


@pytest.mark.parametrize(("width", "block"), [(96, 32), (64, 64), (16, 32), (576, 64), (640, 128)])
def test_a_block_divides_the_width(width: int, block: int) -> None:
    even = np.random.default_rng(2).uniform(0.5, 1, (64, width)).astype(np.float32)
    assert largest_block(even, [np.sign(weight(width))])[0] == block


def test_rows_are_rounded_as_kernels_round_them() -> None:
    """Against ONNX Runtime: a product with ones in blocks, whose codes are exact."""
    given = rows(64, count=5) * np.logspace(-3, 3, 64, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"], "product")]
    model = make_graph(nodes, {"W": np.eye(64, dtype=np.float32)}, {"x": ["n", 64]}, {"y": ["n", 64]})
    found = quantize(model, Batches(({"x": given},)), QuantConfig(weight_method="rtn"), precision="int8-weight")
    assert any(node.op_type == "MatMulNBits" for node in found.graph.graph)
    result = open_onnx(found.graph)({"x": given})["y"]
    np.testing.assert_allclose(result, rounded_rows(given, 32), rtol=1e-4, atol=1e-6 * np.abs(given).max())
    assert not np.allclose(given, rounded_rows(given, 32), rtol=1e-3)
    np.testing.assert_array_equal(rounded_rows(np.zeros((2, 40), np.float32), 32), 0)


def network() -> tuple[ir.Model, Batches]:
    """Two products of one value, and one of a value that is loud in two channels."""
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["a"], "first"),
        helper.make_node("MatMul", ["x", "B"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["s"], "sum"),
        helper.make_node("Mul", ["s", "loud"], ["t"], "louder"),
        helper.make_node("MatMul", ["t", "C"], ["y"], "last"),
    ]
    loud = np.ones(128, np.float32)
    loud[[3, 70]] = 300
    constants = {"A": weight(128, 128), "B": weight(128, 128), "C": weight(128, 128), "loud": loud}
    model = make_graph(nodes, constants, {"x": ["n", 128]}, {"y": ["n", 128]})
    return model, Batches(tuple({"x": rows(128)[i : i + 8]} for i in range(0, 64, 8)))


def test_products_of_one_value_have_blocks_of_one_size() -> None:
    model, data = network()
    plan = weight_plan(model, CHOSEN, precision="int8-weight")
    assert {op.block for op in plan.ops} == {32}
    found = {op.node: op for op in choose_blocks(model, plan, data).ops}
    assert {name: op.block for name, op in found.items()} == {"first": 128, "second": 128, "last": 32}
    assert found["last"].why == "blocks of 32, rtn"
    assert found["first"].why == found["second"].why
    noise = float(found["first"].why.removeprefix("blocks of 128 (").split(" times")[0])
    assert 1 < noise <= MOST_NOISE


def test_an_export_has_them_and_a_size_that_was_asked_for_is_kept() -> None:
    model, data = network()

    def sizes(config: QuantConfig) -> dict[str, int]:
        graph = quantize(model, data, config, precision="int8-weight").graph.graph
        return {str(n.name): n.attributes.get_int("block_size", 0) for n in graph if n.op_type == "MatMulNBits"}

    assert sizes(CHOSEN) == {"first": 128, "second": 128, "last": 32}
    assert set(sizes(QuantConfig(weight_method="rtn")).values()) == {32}
    assert set(sizes(QuantConfig(block=128, weight_method="rtn")).values()) == {128}


def test_blocks_of_4_bits_are_not_measured() -> None:
    model, data = network()
    found = quantize(model, data, CHOSEN, precision="int4-weight")
    assert {op.block for op in found.plan.ops} == {64}


def test_normal_numbers_take_one_scale_for_a_whole_row() -> None:
    found = whole_row(rows(576), [weight(576, 1000), weight(576, 152)])
    assert found is not None
    assert found[0] == 576
    assert found[1] == pytest.approx(2.03, abs=0.05)


def test_a_loud_channel_takes_none_for_a_row() -> None:
    assert whole_row(rows(576, loud=(3,)), [weight(576, 1152)]) is None


def test_a_width_that_no_block_divides_takes_none_for_a_row() -> None:
    assert whole_row(rows(100), [weight(100, 200)]) is None


def test_few_columns_take_none_for_a_row() -> None:
    assert whole_row(rows(576), [weight(576, 1151)]) is None


def around_zero(numbers: Array, axis: int) -> Array:
    """255 codes, one scale along an axis."""
    step = np.abs(numbers).max(axis=axis, keepdims=True) / 127
    return np.asarray(np.rint(numbers / step) * step)


def test_noise_is_that_of_whole_codes_on_both_sides() -> None:
    """A token has one scale, and so has a column of the weight; beside that of blocks of 32."""
    x, w = rows(192), weight(192, 384)
    exact = x.astype(np.float64) @ w
    whole = around_zero(x, 1) @ around_zero(w, 0)
    parts = [slice(start, start + 32) for start in range(0, 192, 32)]
    blocks = sum(around_zero(x[:, part], 1) @ around_zero(w[part], 0) for part in parts)
    ratio = np.square(whole - exact).sum() / np.square(blocks - exact).sum()
    found = whole_row(x, [w])
    assert found is not None
    assert found[1] == pytest.approx(ratio, rel=1e-3)
    assert ratio < MOST_ROW_NOISE


def wide_network(*, tied: bool = False) -> tuple[ir.Model, Batches]:
    """A product of 192 channels, whose weight may be a table that is looked up, too."""
    table = weight(192, 4096)
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"], "product")]
    constants = {"W": table}
    outputs: dict[str, Sequence[int | str | None]] = {"y": ["n", 4096]}
    if tied:
        nodes.append(helper.make_node("Gather", ["T", "ids"], ["z"], "table", axis=0))
        constants |= {"T": np.ascontiguousarray(table.T), "ids": np.arange(4)}
        outputs |= {"z": [4, 192]}
    model = make_graph(nodes, constants, {"x": ["n", 192]}, outputs)
    return model, Batches(tuple({"x": rows(192)[i : i + 8]} for i in range(0, 64, 8)))


def test_a_plan_has_whole_rows_where_they_were_asked_for() -> None:
    model, data = wide_network()
    plan = weight_plan(model, CHOSEN, precision="int8-weight")
    assert choose_blocks(model, plan, data).ops[0].block == 64
    (op,) = choose_blocks(model, plan, data, whole_rows=True).ops
    assert op.block == 192
    assert op.why.startswith("one scale for 192 numbers (")
    assert op.why.endswith(" times the noise of 32), rtn")


def test_a_weight_that_is_tied_to_a_table_has_blocks() -> None:
    model, data = wide_network(tied=True)
    plan = weight_plan(model, CHOSEN, precision="int8-weight")
    assert choose_blocks(model, plan, data, whole_rows=True).ops[0].block == 64


def test_whole_rows_are_stored_in_blocks_of_equal_scales() -> None:
    model, data = wide_network()
    whole = replace(CHOSEN, whole_rows=True)
    found = quantize(model, data, whole, precision="int8-weight")
    (product,) = (node for node in found.graph.graph if node.op_type == "MatMulNBits")
    assert product.attributes.get_int("block_size", 0) == 64
    scales = found.graph.graph.initializers["W_scale"].const_value
    assert scales is not None
    by_block = scales.numpy().reshape(4096, 3)
    assert (by_block == by_block[:, :1]).all()
    np.testing.assert_array_equal(by_block[:, 0], found.weights["W"].scales[0])
    x = rows(192)[:4]
    exact = x @ found.weights["W"].dequantize()
    np.testing.assert_allclose(open_onnx(found.graph)({"x": x})["y"], exact, atol=0.02 * np.abs(exact).max())
