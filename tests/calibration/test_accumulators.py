"""Sums of 8-bit products and a bias beside them stay within 32 bits, and still mean what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from aigc_calibration.accumulators import MIN_UNIT, fits, least_scales
from aigc_calibration.collect import collect
from aigc_calibration.config import QuantConfig
from aigc_calibration.coverage import executed_sites
from aigc_calibration.emit import emit
from aigc_calibration.errors import PlanError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.planner import make_plan, round_weights, watched
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph
from .formats import FORMATS


def conv(weight: Array, bias: Array | None, x: Array) -> tuple[ir.Model, Batches]:
    """Conv -> Tanh: the result is quantized on its way."""
    names = ["x", "w"] + ([] if bias is None else ["b"])
    nodes = [helper.make_node("Conv", names, ["c"], "conv"), helper.make_node("Identity", ["c"], ["y"], "id")]
    constants = {"w": weight, **({} if bias is None else {"b": bias})}
    model = make_graph(nodes, constants, {"x": list(x.shape)}, {"y": [None] * 4})
    return model, Batches(({"x": x},))


def planned(model: ir.Model, data: Batches) -> QuantizationPlan:
    statistics = collect(model, data, watched(model, attention=True))
    return make_plan(model, statistics, QuantConfig(ranges="minmax"), precision="int8")


@pytest.mark.parametrize("dead", [0.0, 1e-30, 1e-38])
@pytest.mark.parametrize("bias", [0.5, -3.0, 1e6])
def test_dead_channels_keep_their_bias(dead: float, bias: float, rng: np.random.Generator) -> None:
    """Four of eight channels give their bias and nothing else."""
    weight = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    weight[:4] *= np.float32(dead)
    values = np.where(np.arange(8) < 4, bias, 0.1).astype(np.float32)
    model, data = conv(weight, values, rng.standard_normal((2, 4, 6, 6)).astype(np.float32))
    plan = planned(model, data)
    graph = emit(model, plan, round_weights(model, plan), FORMATS["ort-cpu"])
    assert executed_sites(graph, plan) == {"conv"}
    actual = open_onnx(graph)(data.feeds[0])["y"]
    low, high = plan.ranges["c"].bounds or (0.0, 0.0)
    np.testing.assert_allclose(actual[:, :4], bias, atol=(high - low) / 255 * 0.51)


@given(ratio=st.floats(0, 14), step=st.floats(-6, 6))
def test_a_bias_far_beyond_its_products_fits(ratio: float, step: float) -> None:
    """Codes of the bias are at most 2^30, and what they stand for is the bias, to 30 bits or half a natural step."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 7)).astype(np.float32)
    bias = (10**ratio * rng.standard_normal(5)).astype(np.float32)
    scales = np.maximum(np.abs(weight).max(axis=1) / 127, least_scales(weight, 0, bias, 10**step))
    codes = np.rint(bias / (scales * 10**step))
    assert np.abs(codes).max() <= 2**30
    assert fits(np.rint(weight / scales[:, None]), 0, codes)
    np.testing.assert_allclose(codes * scales * 10**step, bias, rtol=2**-29, atol=scales.max() * 10**step / 2)


@pytest.mark.parametrize("bias", [0.1, 1e6])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_weights_of_another_plan_are_taken_where_no_range_decides_their_scales(
    bias: float, factor: float, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((8, 4, 3, 3)).astype(np.float32)
    values = np.full(8, bias, np.float32)
    model, data = conv(weight, values, rng.standard_normal((2, 4, 6, 6)).astype(np.float32))
    plan = planned(model, data)
    tensors = []
    for t in plan.tensors:
        low, high = t.bounds or (0.0, 0.0)
        bounds = None if t.bounds is None else (factor * low, factor * high)
        tensors.append(replace(t, amax=factor * t.amax, bounds=bounds))
    wider, before = replace(plan, tensors=tuple(tensors)), round_weights(model, plan)
    taken = round_weights(model, wider, before=(plan, before))["w"]
    anew = round_weights(model, wider)["w"]
    assert np.array_equal(taken.codes, anew.codes)
    assert np.array_equal(taken.scales, anew.scales)
    assert (taken is before["w"]) == (bias == 0.1 or factor == 1)


def test_many_terms_do_not_wrap_around() -> None:
    """100,000 products of the largest codes are 3.2e9; int32 ends at 2.1e9."""
    weight = np.full((1, 100_000, 1, 1), 0.01, dtype=np.float32)
    x = np.ones((1, 100_000, 1, 1), dtype=np.float32)
    model, data = conv(weight, None, x)
    plan = planned(model, data)
    weights = round_weights(model, plan)
    assert fits(weights["w"].codes, 0, None)
    actual = open_onnx(emit(model, plan, weights, FORMATS["ort-cpu"]))(data.feeds[0])["y"]
    np.testing.assert_allclose(actual, 1000.0, rtol=0.02)


def test_units_are_normal_numbers() -> None:
    weight = np.zeros((2, 3), dtype=np.float32)
    assert (least_scales(weight, 0, None, 1e-9) * 1e-9 >= MIN_UNIT * 0.999).all()


def test_what_does_not_fit() -> None:
    codes = np.full((2, 40_000), 127.0)
    codes[1] = 0
    assert fits(codes, 0, None)
    assert not fits(codes, 0, np.array([1e9, 0]))
    assert not fits(codes, 0, np.array([0, 2.0**31]))
    assert not fits(np.full((1, 70_000), 127.0), 0, None)


def test_weights_rounded_in_another_way_are_refused(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((2, 4, 1, 1)).astype(np.float32)
    model, data = conv(weight, np.array([1e9, 0], np.float32), rng.standard_normal((2, 4, 3, 3)).astype(np.float32))
    from aigc_calibration.grids import GRIDS
    from aigc_calibration.weights import round_to_channels

    with pytest.raises(PlanError, match="the bias of 'conv' and its products do not fit in 32 bits"):
        emit(model, planned(model, data), {"w": round_to_channels("w", weight, 0, GRIDS["int8"])}, FORMATS["ort-cpu"])
