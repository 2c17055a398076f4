"""Pairs of precisions: what is planned, from which samples, and that a mix of them is between the two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.calibrate import calibrate
from aigc_calibration.config import QuantConfig
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import fit_weights
from aigc_export.mixed_precision.candidates import emit_mix
from aigc_export.mixed_precision.pairs import plan_pair, without_exceptions
from aigc_export.workloads.base import Precisions
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.tensors import Array

from ...calibration.conftest import Batches, make_graph

NEAREST = QuantConfig(nearest=("int8-weight",))


@pytest.fixture(scope="module")
def graph() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64), dtype=np.float32) / 8 for name in ("a", "b")}
    gain = rng.uniform(0.1, 3.0, 64).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["scaled"], name="norm"),
        helper.make_node("MatMul", ["scaled", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="second"),
    ]
    return prepare(make_graph(nodes, {**weights, "gain": gain}, {"x": [48, 64]}, {"y": [48, 64]}))


@pytest.fixture(scope="module")
def data() -> Batches:
    rng = np.random.default_rng(1)
    loud = np.where(np.arange(64) % 16 == 3, 20.0, 1.0)
    return Batches(tuple({"x": (rng.standard_normal((48, 64)) * loud).astype(np.float32)} for _ in range(2)))


def errors(graph: ir.Model, made: ir.Model, data: Batches) -> float:
    expected, actual = (open_onnx(g)(data.feeds[0])["y"] for g in (graph, made))
    found: float = compare_arrays(expected, actual).sqnr_db
    return found


@pytest.mark.parametrize(
    ("precisions", "samples"), [(("int8-weight", "float"), 0), (("int4-weight", "int8-weight"), 96)]
)
def test_weights_alone_take_no_ranges_and_say_their_samples(
    precisions: Precisions, samples: int, graph: ir.Model, data: Batches
) -> None:
    config = without_exceptions(NEAREST)
    pair = plan_pair(graph, data, config, precisions, UNSIGNED_FORMAT, None, outputs=["y"], threads=1)
    assert pair.name == " / ".join(precisions)
    assert (pair.high is None) == (precisions[1] == "float")
    assert (0 if pair.statistics is None else pair.statistics.samples) == samples
    low, mixed = (emit_mix(pair, kept) for kept in ({}, {"second": "tried"}))
    assert errors(graph, low.graph, data) < errors(graph, mixed.graph, data)
    assert {low.precision, low.base, mixed.base} == {"int4" if samples else "int8-weight"}
    assert mixed.precision == "mixed"


def test_activations_come_from_the_calibration(graph: ir.Model, data: Batches) -> None:
    found = calibrate(graph, data, QuantConfig(ranges="minmax"), precision="int8", threads=1)
    config = QuantConfig(ranges="minmax")
    pair = plan_pair(graph, data, config, ("int8", "float"), UNSIGNED_FORMAT, found, outputs=["y"], threads=1)
    assert pair.high is None
    assert pair.statistics is found.statistics
    assert {op.precision for op in pair.low.quantized()} == {"int8"}


def test_the_scales_of_awq_are_in_the_graph_of_both(graph: ir.Model, data: Batches) -> None:
    def weight(model: ir.Model) -> Array:
        value = model.graph.initializers["a"].const_value
        assert value is not None
        found: Array = value.numpy()
        return found

    config = QuantConfig(weight_method="awq")
    pair = plan_pair(
        graph, data, config, ("int4-weight", "int8-weight"), UNSIGNED_FORMAT, None, outputs=["y"], threads=1
    )
    alone = fit_weights(graph, data, config, precision="int4-weight", threads=1)
    assert np.abs(weight(pair.graph) - weight(graph)).max() > 0
    np.testing.assert_array_equal(weight(pair.graph), weight(alone.graph))
    assert pair.high is not None
    assert pair.high.graph_sha256 == pair.low.graph_sha256
    assert errors(graph, emit_mix(pair, {"first": "tried", "second": "tried"}).graph, data) > 30
