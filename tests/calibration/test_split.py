"""Sites behind a concatenation are split by its branches: the same function, ranges of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.calibrate import calibrate
from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import find_sites
from aigc_calibration.split import split_skips
from aigc_runtime.core.compare import compare_arrays

from .conftest import Batches, make_graph

LOUD = 50.0
"""How much louder the second branch is than the first."""


def skip_network(**conv: Any) -> tuple[ir.Model, Batches]:
    """Conv(Concat(x, y)) and, beside it, Relu(Concat(x, y)); the weight of the loud branch is small."""
    rng = np.random.default_rng(0)
    group = int(conv.get("group", 1))
    weight = rng.standard_normal((4, 6 // group, 3, 3)).astype(np.float32)
    if group == 1:
        weight[:, 2:] /= LOUD
    constants = {"w": weight, "b": rng.standard_normal(4).astype(np.float32)}
    nodes = [
        helper.make_node("Concat", ["x", "y"], ["both"], "concat", axis=1),
        helper.make_node("Conv", ["both", "w", "b"], ["c"], "conv", pads=[1] * 4, **conv),
        helper.make_node("Relu", ["c"], ["z"], "relu"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 2, 5, 5], "y": ["n", 4, 5, 5]}, {"z": ["n", 4, 5, 5]})
    feeds = tuple(
        {
            "x": rng.standard_normal((8, 2, 5, 5)).astype(np.float32),
            "y": (LOUD * rng.standard_normal((8, 4, 5, 5))).astype(np.float32),
        }
        for _ in range(4)
    )
    return prepare(model), Batches(feeds)


def test_the_same_function() -> None:
    model, data = skip_network()
    made, count = split_skips(model)
    assert count == 1
    assert [s.activations for s in find_sites(made)] == [("x",), ("y",)]
    assert "Concat" not in {n.op_type for n in made.graph}
    before, after = open_onnx(model)(data.feeds[0])["z"], open_onnx(made)(data.feeds[0])["z"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_the_last_axis_of_a_product() -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((9, 5)).astype(np.float32)}
    nodes = [
        helper.make_node("Concat", ["x", "y", "x"], ["both"], "concat", axis=-1),
        helper.make_node("MatMul", ["both", "w"], ["z"], "matmul"),
        helper.make_node("Relu", ["both"], ["r"], "relu"),
    ]
    model = make_graph(nodes, constants, {"x": ["n", 2], "y": ["n", 5]}, {"z": ["n", 5], "r": ["n", 9]})
    made, count = split_skips(model)
    assert count == 1
    assert len(find_sites(made)) == 3
    assert "Concat" in {n.op_type for n in made.graph}  # Relu reads it still
    feeds = {"x": rng.standard_normal((3, 2)).astype(np.float32), "y": rng.standard_normal((3, 5)).astype(np.float32)}
    for name, value in open_onnx(model)(feeds).items():
        np.testing.assert_allclose(open_onnx(made)(feeds)[name], value, rtol=1e-5, atol=1e-5)


def test_what_is_not_split() -> None:
    grouped, _ = skip_network(group=2)
    assert split_skips(grouped)[1] == 0
    along_rows = make_graph(
        [
            helper.make_node("Concat", ["x", "x"], ["both"], "concat", axis=0),
            helper.make_node("MatMul", ["both", "w"], ["z"], "matmul"),
        ],
        {"w": np.eye(3, dtype=np.float32)},
        {"x": ["n", 3]},
        {"z": ["m", 3]},
    )
    assert split_skips(along_rows)[1] == 0
    unknown = make_graph(
        [
            helper.make_node("Concat", ["x", "y"], ["both"], "concat", axis=1),
            helper.make_node("MatMul", ["both", "w"], ["z"], "matmul"),
        ],
        {"w": np.eye(4, dtype=np.float32)},
        {"x": ["n", "a"], "y": ["n", "b"]},
        {"z": ["n", 4]},
    )
    assert split_skips(unknown)[1] == 0


def test_ranges_of_their_own_lower_the_error() -> None:
    model, data = skip_network()
    exact = open_onnx(model)(data.feeds[0])["z"]
    found = {}
    for split in (False, True):
        config = QuantConfig(split_skips=split)
        made = quantize(model, data, config, precision="int8")
        assert made.coverage.executed is not None
        assert made.coverage.executed > 0.99
        found[split] = compare_arrays(exact, open_onnx(made.graph)(data.feeds[0])["z"]).sqnr_db
        ranges = made.plan.ranges
        assert (len(made.plan.transforms), "both" in ranges) == ((1, False) if split else (0, True))
        if split:
            assert ranges["y"].amax > 20 * ranges["x"].amax
    assert found[True] > found[False] + 6  # more than one bit


def test_a_calibration_knows_whether_it_was_split() -> None:
    model, data = skip_network()
    split = calibrate(model, data, QuantConfig(split_skips=True), precision="int8")
    assert split.split_skips
    # The configuration of a later run does not matter: ranges fit the graph that they were taken from.
    made = quantize(model, data, QuantConfig(), precision="int8", calibration=split)
    assert len(made.plan.ops) == 2
    assert not calibrate(model, data, QuantConfig(split_skips=True), precision="fp16").split_skips
    with pytest.raises(Exception, match="has no statistics of"):
        quantize(model, data, QuantConfig(), precision="int8", calibration=replace(split, split_skips=False))
