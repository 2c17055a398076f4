"""SmoothQuant into gains, for weights in blocks: the same function, and less noise where a channel is loud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from aigc_calibration.config import QuantConfig
from aigc_calibration.lookups import tied_weights
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import NO_SAMPLES, quantize
from aigc_calibration.smooth_gains import smooth_gains
from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.errors import ConfigError

from .conftest import Batches, make_graph

NEAREST = QuantConfig(nearest=("int8-weight",))
SMOOTHED = replace(NEAREST, gain_smoothing=0.5)


def network(*, gain: bool) -> tuple[ir.Model, Batches]:
    """A normalization whose gain lets some channels be forty times as loud, in front of two products."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 32), dtype=np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("Mul" if gain else "Add", ["x", "gain"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "a"], ["p"], name="first"),
        helper.make_node("MatMul", ["n", "b"], ["q"], name="second"),
        helper.make_node("Add", ["p", "q"], ["y"], name="sum"),
    ]
    loud = np.where(np.arange(64) % 21 == 5, 40.0, 1.0)
    rows = [(rng.standard_normal((16, 64)) * loud).astype(np.float32) for _ in range(4)]
    made = make_graph(nodes, {**weights, "gain": np.ones(64, np.float32)}, {"x": [16, 64]}, {"y": [16, 32]})
    return prepare(made), Batches(tuple({"x": one} for one in rows))


def test_it_is_the_same_function() -> None:
    model, data = network(gain=True)
    made, count, seen = smooth_gains(model, data, 0.5)
    assert count == 1
    assert seen is not None
    assert (seen.samples, seen.tensors) == (32, {})  # of 64: see `FewSamples`
    expected, actual = (open_onnx(g)(data.feeds[0])["y"] for g in (model, made))
    assert compare_arrays(expected, actual).sqnr_db > 110
    before, after = (g.graph.initializers["gain"].const_value for g in (model, made))
    assert before is not None
    assert after is not None
    assert np.ptp(after.numpy()) > 1 > np.ptp(before.numpy())  # and the graph that came in is as it was


def test_where_there_is_no_gain_nothing_is_read() -> None:
    model, data = network(gain=False)
    made, count, seen = smooth_gains(model, data, 0.5)
    assert made is model
    assert (count, seen) == (0, None)
    assert quantize(model, data, SMOOTHED, precision="int8-weight").statistics == NO_SAMPLES


def test_a_weight_that_is_a_table_too_stays_as_it_is() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((32, 64), dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["i"], ["ids"], name="cast", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["x"], name="lookup"),
        helper.make_node("Mul", ["x", "gain"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "head"], ["y"], name="head"),
    ]
    constants = {"table": table, "head": table.T.copy(), "gain": np.ones(64, np.float32)}
    made = prepare(make_graph(nodes, constants, {"i": [4]}, {"y": [4, 32]}))
    data = Batches(({"i": np.arange(4, dtype=np.float32)},))
    assert tied_weights(made) == {"head"}
    assert smooth_gains(made, data, 0.5) == (made, 0, None)


def test_a_loud_channel_costs_less() -> None:
    model, data = network(gain=True)
    plain, smoothed = (quantize(model, data, one, precision="int8-weight") for one in (NEAREST, SMOOTHED))
    assert plain.statistics == NO_SAMPLES
    assert smoothed.statistics.samples == 32
    assert smoothed.plan.transforms == ("SmoothQuant on 1 values, {'gain': 0.5}",)
    wanted = open_onnx(model)(data.feeds[0])["y"]
    least, more = (
        compare_arrays(wanted, open_onnx(one.graph)(data.feeds[0])["y"]).sqnr_db for one in (plain, smoothed)
    )
    assert more > least + 1


@pytest.mark.parametrize("changes", [{"precision": "int4-weight"}, {"weight_method": "awq"}])
def test_four_bits_and_the_scales_of_awq_are_left_alone(changes: dict[str, str]) -> None:
    model, data = network(gain=True)
    precision = "int4-weight" if "precision" in changes else "int8-weight"
    config = replace(SMOOTHED, weight_method=changes.get("weight_method", "rtn"))  # type: ignore[arg-type]
    found = quantize(model, data, config, precision=precision)  # type: ignore[arg-type]
    assert not any("SmoothQuant" in what for what in found.plan.transforms)


def test_a_strength_outside_its_range() -> None:
    with pytest.raises(ConfigError, match="gain_smoothing is 2"):
        QuantConfig(gain_smoothing=2)
