"""Fed the ranges of a plan, the graph with ranges as inputs is what the emitter makes of that plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.emit import emit
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.range_inputs import graph_with_ranges, range_feeds
from aigc_calibration.ranges import METHODS

from .conftest import small_network
from .formats import FORMATS


@pytest.mark.parametrize("target", ["ort-cpu", "tensorrt"])
def test_any_plans_ranges_give_that_plans_numbers(target: str) -> None:
    form = FORMATS[target]
    model, data = small_network()
    ready = prepare(model)
    calibration = calibrate(ready, data, QuantConfig(), precision="int8")
    plans = {
        method: plan_calibrated(ready, calibration, QuantConfig(ranges=method), precision="int8", form=form)
        for method in METHODS
    }
    graph, first = plans["minmax"]
    weights = round_weights(graph, first)
    made = graph_with_ranges(graph, first, weights, form)
    names = {value.name for value in made.graph.inputs}
    run = open_onnx(made, optimize=False)
    plain = replace(form, integer_bias=False, nbits=False, phases=False, moves_codes=False, float_ops={})
    seen = []
    for _, plan in plans.values():
        ranges = {name: array for name, array in range_feeds(plan.tensors, form).items() if name in names}
        found = run({**data.feeds[0], **ranges})["y"]
        expected = open_onnx(emit(graph, plan, weights, plain), optimize=False)(data.feeds[0])["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        seen.append(found)
    assert any(not np.array_equal(seen[0], other) for other in seen[1:])


def test_the_float_graph_stays_as_it_was() -> None:
    model, data = small_network()
    ready = prepare(model)
    calibration = calibrate(ready, data, QuantConfig(), precision="int8")
    graph, plan = plan_calibrated(ready, calibration, QuantConfig(), precision="int8", form=FORMATS["ort-cpu"])
    before = open_onnx(graph)(data.feeds[0])["y"]
    graph_with_ranges(graph, plan, round_weights(graph, plan), FORMATS["ort-cpu"])
    assert np.array_equal(open_onnx(graph)(data.feeds[0])["y"], before)
    assert [value.name for value in graph.graph.inputs] == ["x"]
