"""A block of an 8-bit weight is as large as what it is multiplied with allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.choose_blocks import MOST_NOISE, choose_blocks, largest_block, rounded_rows
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
