"""Ranges are chosen by what they do to the outputs: some outputs need the largest numbers, and some do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.quantize import Quantized, quantize
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError

from .conftest import Batches, Shape, make_graph
from .formats import FORMATS

WIDTH, ROWS, SAMPLES = 64, 1024, 12


def draw(rng: np.random.Generator) -> Array:
    """[samples, rows, width]: numbers of one magnitude; one row of a sample has 60 in channel 0, and others 0."""
    x = rng.standard_normal((SAMPLES, ROWS, WIDTH)).astype(np.float32)
    x[..., 0] = 0
    x[np.arange(SAMPLES), rng.integers(0, ROWS, SAMPLES), 0] = 60
    return x


def two_branches() -> tuple[ir.Model, Batches, Array]:
    """y = a A + b B: A carries the rare numbers of channel 0 to the output and little else, B leaves them out."""
    rng = np.random.default_rng(0)
    carries, leaves_out = (rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(2))
    carries[1:] *= 0.02
    leaves_out[0] = 0
    nodes = [
        helper.make_node("MatMul", ["a", "A"], ["ya"], "carries"),
        helper.make_node("MatMul", ["b", "B"], ["yb"], "leaves_out"),
        helper.make_node("Add", ["ya", "yb"], ["y"], "sum"),
    ]
    shape: Shape = ["n", ROWS, WIDTH]
    model = make_graph(nodes, {"A": carries, "B": leaves_out}, {"a": shape, "b": shape}, {"y": shape})
    a, b = draw(rng), draw(rng)
    feeds = tuple({"a": a[i : i + 1], "b": b[i : i + 1]} for i in range(SAMPLES))
    return model, Batches(feeds), np.concatenate([f["a"] @ carries + f["b"] @ leaves_out for f in feeds])


def noise(found: Quantized, data: Batches, exact: Array) -> float:
    run = open_onnx(found.graph)
    made = np.concatenate([run(feeds)["y"] for feeds in data.feeds])
    return float(np.square(made - exact, dtype=np.float64).sum() / np.square(exact, dtype=np.float64).sum())


def methods(found: Quantized) -> dict[str, str]:
    return {tensor.name: tensor.method for tensor in found.plan.tensors}


def test_each_activation_gets_the_range_that_the_output_wants() -> None:
    model, data, exact = two_branches()
    made = {
        ranges: quantize(model, data, QuantConfig(ranges=ranges), precision="int8")
        for ranges in ("auto", "mse", "minmax", "percentile")
    }
    assert methods(made["auto"])["a"] == "minmax"
    assert methods(made["auto"])["b"] != "minmax"
    costs = {ranges: noise(found, data, exact) for ranges, found in made.items()}
    assert costs["auto"] < 0.8 * min(costs[ranges] for ranges in ("mse", "minmax", "percentile"))


def test_the_plan_says_what_each_method_did() -> None:
    model, data, _ = two_branches()
    (note,) = quantize(model, data, QuantConfig(), precision="int8").plan.notes
    assert note.startswith("ranges by their effect on the outputs: mse ")
    assert "minmax" in note
    assert "runs)" in note
    assert quantize(model, data, QuantConfig(ranges="mse"), precision="int8").plan.notes == ()


@pytest.mark.parametrize("precision", ["fp8", "fp16"])
def test_other_precisions_have_nothing_to_choose(precision: str) -> None:
    model, data, _ = two_branches()
    form = FORMATS["tensorrt"]
    made = quantize(model, data, QuantConfig(), precision=precision, form=form, executed=lambda _graph, _plan: None)  # type: ignore[arg-type]
    assert made.plan.notes == ()


def test_outputs_that_do_not_count_do_not_choose() -> None:
    """Of two results, one that only the branch without rare numbers makes is the one that counts."""
    model, data, _ = two_branches()
    graph = model.graph
    other = next(node for node in graph if node.name == "leaves_out").outputs[0]
    graph.outputs.append(other)
    found = quantize(model, data, QuantConfig(), precision="int8", outputs=["yb"])
    assert methods(found)["a"] != "minmax"


def test_one_sample_is_enough() -> None:
    model, data, _ = two_branches()
    found = quantize(model, replace(data, feeds=data.feeds[:1]), QuantConfig(), precision="int8")
    assert methods(found)["a"] == "minmax"


def test_it_can_be_cancelled() -> None:
    model, data, _ = two_branches()

    def stop(what: str, done: int, total: int) -> bool:
        return what != "choice of ranges" or done < 3

    with pytest.raises(CancelledError, match="choice of ranges"):
        quantize(model, data, QuantConfig(), precision="int8", progress=stop)
