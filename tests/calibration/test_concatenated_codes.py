"""Concatenations on ONNX Runtime copy codes where they copied floats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import helper

from aigc_calibration.emit import emit
from aigc_calibration.onnx_function import open_onnx
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph
from .formats import FORMATS
from .test_emit import optimized_ops, plan_of


def dense_block(rng: np.random.Generator) -> ir.Model:
    """Two convolutions that read all results before them, as DenseNet and RRDBNet have it."""

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "first", pads=[1] * 4),
        helper.make_node("LeakyRelu", ["c0"], ["l0"], "leaky", alpha=0.2),
        helper.make_node("Concat", ["x", "l0"], ["a"], "two", axis=1),
        helper.make_node("Conv", ["a", "w1"], ["c1"], "second", pads=[1] * 4),
        helper.make_node("LeakyRelu", ["c1"], ["l1"], "leaky again", alpha=0.2),
        helper.make_node("Concat", ["x", "l0", "l1"], ["b"], "three", axis=1),
        helper.make_node("Conv", ["b", "w2"], ["c2"], "third", pads=[1] * 4),
        helper.make_node("Add", ["c2", "x"], ["y"], "residual"),
    ]
    constants = {"w0": normal(3, 4, 3, 3), "w1": normal(3, 7, 3, 3), "w2": normal(4, 10, 3, 3)}
    return make_graph(nodes, constants, {"x": ["n", 4, 6, 6]}, {"y": ["n", 4, 6, 6]})


def test_codes_are_concatenated_where_floats_were(tmp_path: Path, rng: np.random.Generator) -> None:
    model = dense_block(rng)
    data = Batches(tuple({"x": rng.standard_normal((4, 4, 6, 6)).astype(np.float32)} for _ in range(4)))
    plan, weights = plan_of(model, data)
    form = FORMATS["ort-cpu"]
    copied, floats = (emit(model, plan, weights, replace(form, moves_codes=moves)) for moves in (True, False))
    for feeds in data.feeds:  # the same numbers, whoever concatenates
        expected = open_onnx(floats, optimize=False)(feeds)["y"]
        np.testing.assert_array_equal(open_onnx(copied, optimize=False)(feeds)["y"], expected)
    run = {name: optimized_ops(graph, tmp_path) for name, graph in (("codes", copied), ("floats", floats))}
    assert run["codes"]["QLinearConcat"] == 2
    assert (
        run["codes"]["QLinearLeakyRelu"] == 1
    )  # of the second: two concatenations read the first, each in its own range
    assert run["floats"]["Concat"] == 2


def test_a_concatenation_that_is_read_by_floats_too_stays_float(rng: np.random.Generator, tmp_path: Path) -> None:
    model = dense_block(rng)
    graph = model.graph
    (three,) = [value for node in graph for value in node.outputs if value.name == "b"]
    graph.outputs.append(three)
    data = Batches(tuple({"x": rng.standard_normal((4, 4, 6, 6)).astype(np.float32)} for _ in range(4)))
    plan, weights = plan_of(model, data)
    run = optimized_ops(emit(model, plan, weights, FORMATS["ort-cpu"]), tmp_path)
    assert run["QLinearConcat"] == 1
    assert run["Concat"] == 1
