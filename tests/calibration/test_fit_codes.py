"""Codes that are fitted to samples make products more exact, on other samples too, and keep their scales."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_calibrated
from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import CalibrationError
from aigc_calibration.fit_codes import fit_codes, moments_for
from aigc_calibration.formats import UNSIGNED_FORMAT
from aigc_calibration.hessian import SampledMoments
from aigc_calibration.matrices import Reading, reading_of, to_matrix
from aigc_calibration.plan import SitePrecision
from aigc_calibration.planner import round_weights
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import find_sites, weight_array
from aigc_calibration.weights import QuantizedWeight
from aigc_runtime.core.tensors import Array

from .conftest import Batches, Shape, make_graph, small_network

fit_module = import_module("aigc_calibration.fit_codes")
PLAIN = QuantConfig(ranges="mse", equalize=0.0, float_share=0.0)


def correlated(rng: np.random.Generator, rows: int) -> Array:
    """Pictures [rows, 4, 12, 12] whose channels and pixels are much alike, as those of real ones are."""
    coarse = rng.standard_normal((rows, 2, 3, 3)).repeat(4, axis=2).repeat(4, axis=3)
    mixed = np.einsum("oc,nchw->nohw", np.array([[1, 0], [0.9, 0.1], [0, 1], [-0.5, 0.8]]), coarse)
    found: Array = (mixed + 0.05 * rng.standard_normal(mixed.shape)).astype(np.float32)
    return found


def network(op: str) -> tuple[ir.Model, Batches, Array]:
    """One layer with a bias, samples for it, and others."""
    rng = np.random.default_rng(0)
    image = {"Conv": (8, 4, 3, 3), "ConvTranspose": (4, 8, 2, 2)}
    constants = {"b": rng.standard_normal(8).astype(np.float32)}
    if op in image:
        constants["w"] = rng.standard_normal(image[op]).astype(np.float32)
        options: dict[str, Any] = {"pads": [1, 1, 1, 1]} if op == "Conv" else {"strides": [2, 2]}
        nodes = [helper.make_node(op, ["x", "w", "b"], ["y"], name="layer", **options)]
        inputs: dict[str, Shape] = {"x": ["n", 4, 12, 12]}
        outputs: dict[str, Shape] = {"y": ["n", 8, None, None]}
        seen, others = correlated(rng, 24), correlated(rng, 8)
    else:
        constants["w"] = rng.standard_normal((16, 8)).astype(np.float32)
        nodes = [helper.make_node(op, ["x", "w", "b"], ["y"], name="layer")]
        inputs, outputs = {"x": ["n", 16]}, {"y": ["n", 8]}
        basis = rng.standard_normal((3, 16))
        seen, others = (
            (rng.standard_normal((n, 3)) @ basis + 0.05 * rng.standard_normal((n, 16))).astype(np.float32)
            for n in (192, 64)
        )
    model = prepare(make_graph(nodes, constants, inputs, outputs))
    return model, Batches(tuple({"x": part} for part in np.array_split(seen, 4))), others


def rounded(
    model: ir.Model, data: Batches, precision: SitePrecision = "int8"
) -> tuple[QuantizedWeight, QuantizedWeight]:
    """The one weight of a graph, to the nearest codes and fitted."""
    calibration = calibrate(model, data, PLAIN, precision=precision)
    graph, plan = plan_calibrated(model, calibration, PLAIN, precision=precision, form=UNSIGNED_FORMAT)
    nearest = round_weights(graph, plan, PLAIN)
    assert calibration.moments is not None
    (name,) = nearest
    return nearest[name], fit_codes(graph, plan, nearest, calibration.moments)[name]


def product_errors(model: ir.Model, values: Array, weights: tuple[QuantizedWeight, ...]) -> list[float]:
    (site,) = find_sites(model)
    reading = reading_of(model, site)
    assert reading is not None
    rows, exact = reading.rows(values), to_matrix(site, weight_array(model, str(site.weight)))
    return [float(np.square(rows @ (to_matrix(site, w.dequantize()) - exact)).mean()) for w in weights]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
def test_products_of_other_samples_are_more_exact(op: str, precision: SitePrecision) -> None:
    model, data, others = network(op)
    before, after = rounded(model, data, precision)
    np.testing.assert_array_equal(before.scales, after.scales, strict=True)
    assert before.codes.shape == after.codes.shape
    assert before.codes.dtype == after.codes.dtype
    nearest, fitted = product_errors(model, others, (before, after))
    assert fitted < 0.5 * nearest
    np.testing.assert_array_equal(after.grid.round_codes(after.codes), after.codes)


def test_few_rows_leave_the_nearest_codes() -> None:
    model, data, _ = network("Gemm")
    before, after = rounded(model, Batches(({"x": data.feeds[0]["x"][:31]},)))  # of 16 numbers: one row too few
    assert before is after
    before, after = rounded(model, Batches(({"x": data.feeds[0]["x"][:32]},)))
    assert (before.codes != after.codes).any()


def test_wide_rows_leave_the_nearest_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, _ = network("Conv")
    monkeypatch.setattr(fit_module, "LARGEST_WIDTH", 35)
    before, after = rounded(model, data)
    assert before is after


def test_the_narrowest_are_watched_where_there_is_no_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = small_network()
    graph = prepare(model)
    readings = [reading_of(graph, site) for site in find_sites(graph)]
    widths = sorted(reading.width for reading in readings if reading is not None)
    monkeypatch.setattr(fit_module, "BUDGET_BYTES", 2 * (widths[0] ** 2 + widths[1] ** 2))
    moments = moments_for(graph, PLAIN, samples=4)
    for reading in readings:
        assert reading is not None
        if reading.width <= widths[1]:
            moments.mean(reading)
        else:
            with pytest.raises(KeyError):
                moments.mean(reading)


def test_codes_whose_sums_leave_32_bits_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, _ = network("Conv")
    monkeypatch.setattr(fit_module, "fits", lambda *_: False)
    before, after = rounded(model, data)
    assert before is after


def test_rounding_to_nearest_can_be_asked_for() -> None:
    model, data = small_network()
    default = quantize(model, data, PLAIN, precision="int8").weights
    nearest = quantize(model, data, replace(PLAIN, weight_method="rtn"), precision="int8").weights
    assert default.keys() == nearest.keys()
    assert any((default[name].codes != nearest[name].codes).any() for name in default)
    assert calibrate(prepare(model), data, replace(PLAIN, weight_method="rtn"), precision="int8").moments is None


def test_codes_that_a_calibration_does_not_hold_cannot_be_asked_for() -> None:
    model, data = small_network()
    calibration = calibrate(prepare(model), data, replace(PLAIN, weight_method="rtn"), precision="int8")
    quantize(model, data, PLAIN, precision="int8", calibration=calibration)  # by default: the nearest ones
    with pytest.raises(CalibrationError, match="holds no codes"):
        quantize(model, data, replace(PLAIN, weight_method="gptq"), precision="int8", calibration=calibration)


def test_what_stays_float_is_not_watched() -> None:
    model, data, _ = network("Conv")
    module = find_sites(model)[0].module
    moments = moments_for(model, replace(PLAIN, keep_float=(module,)), samples=data.rows)
    reading = reading_of(model, find_sites(model)[0])
    assert reading is not None
    assert moments.rows(reading) == 0


READINGS = (
    Reading("v", 6, "last"),
    Reading("v", 3, "channels"),
    Reading("v", 12, "patches", (2, 2), (1, 0, 0, 1), (2, 1), (1, 2)),
)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.kind)
def test_rows_that_are_drawn_are_some_of_all(reading: Reading) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    every = reading.rows(values)
    some, places = reading.drawn(values, 7, rng)
    assert len(some) == len(set(places.tolist())) == 7
    np.testing.assert_array_equal(some, every[places])
    np.testing.assert_array_equal(reading.drawn(values, 10**6, rng)[0], every)


def test_moments_are_those_of_rows_from_all_samples() -> None:
    reading = Reading("v", 4, "last")
    rng = np.random.default_rng(1)
    batches = [rng.standard_normal((2, 50, 4)).astype(np.float32) for _ in range(10)]
    moments = SampledMoments([reading], samples=20, rows=5)
    for values in batches:
        moments.add({"v": values}, 2)
    assert moments.rows(reading) == 20  # 5 for each of 4 numbers, one of every sample
    seen = np.random.default_rng(0)
    expected = np.concatenate([reading.drawn(values, 2, seen)[0] for values in batches]).astype(np.float64)
    np.testing.assert_allclose(moments.mean(reading), expected.T @ expected / 20, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moments.mean(reading), moments.mean(reading))  # which may be asked for again


def test_rows_count_as_often_as_their_weights_say() -> None:
    reading = Reading("v", 2, "last")
    values = np.array([[[1, 0], [0, 1]]], dtype=np.float32)
    moments = SampledMoments([reading], samples=1, rows=8)
    moments.add({"v": values}, 1, np.array([[3.0, 1.0]]))
    np.testing.assert_allclose(moments.mean(reading), np.diag([0.75, 0.25]), rtol=1e-6)
