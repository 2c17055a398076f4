"""Largest magnitudes of rows are numpy's, of the values that the graph computes without them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.collect import collect
from aigc_calibration.errors import CalibrationError
from aigc_calibration.magnitudes import reduced
from aigc_calibration.onnx_function import open_onnx
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph


def found(model: ir.Model, values: list[str], x: Array) -> dict[str, Array]:
    made = reduced(model, values)
    return made.magnitudes(open_onnx(made.model, expose=made.watched)({"x": x}))


def negated(shape: list[str | int]) -> ir.Model:
    return make_graph([helper.make_node("Neg", ["x"], ["y"])], {}, {"x": shape}, {"y": shape})


def test_they_are_numpys(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    x = data.feeds[0]["x"]
    inner = open_onnx(model, expose=["c1", "r4"])({"x": x})
    values = {"x": x, "c1": inner["c1"], "r4": inner["r4"]}
    for name, rows in found(model, list(values), x).items():
        expected = np.abs(values[name]).reshape(len(values[name]), -1).max(axis=1)
        np.testing.assert_array_equal(rows, expected)
        assert rows.dtype == np.float32


def test_the_graph_itself_stays_as_it_is(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    nodes = [node.name for node in model.graph]
    made = reduced(model, ["c1"])
    assert [node.name for node in model.graph] == nodes
    feeds = data.feeds[0]
    for name, value in open_onnx(model)(feeds).items():
        np.testing.assert_array_equal(open_onnx(made.model)(feeds)[name], value)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4, 5)])
def test_of_any_number_of_axes(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sizes: list[str | int] = ["n", *shape[1:]]
    np.testing.assert_array_equal(found(negated(sizes), ["y"], x)["y"], np.abs(x).reshape(len(x), -1).max(axis=1))


def test_a_row_without_numbers_and_what_is_no_number() -> None:
    model = negated(["n", "m"])
    assert found(model, ["y"], np.zeros((2, 0), np.float32))["y"].tolist() == [0, 0]
    assert found(model, ["y"], np.zeros((0, 3), np.float32))["y"].tolist() == []
    rows = found(model, ["y"], np.array([[np.nan, 1], [1, np.nan], [-np.inf, 2], [3, -4]], np.float32))["y"]
    np.testing.assert_array_equal(rows, np.array([np.nan, np.nan, np.inf, 4], np.float32))


def test_collecting_them_gives_the_extremes_of_all_values(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    whole = collect(model, data, ["x", "c1", "r4"])
    rows = collect(model, data, ["x", "c1", "r4"], magnitudes=True)
    assert (rows.samples, rows.batches, rows.samples_sha256) == (whole.samples, whole.batches, whole.samples_sha256)
    for name, seen in whole.tensors.items():
        assert rows.tensors[name].histogram.amax == seen.histogram.amax > 0
        assert [h.amax for h in rows.tensors[name].splits] == [h.amax for h in seen.splits]
        assert rows.tensors[name].histogram.count == 48  # rows


@pytest.mark.parametrize("value", [np.inf, -3e38])
def test_mask_constants_are_told_apart(value: float) -> None:
    x = np.ones((4, 2), np.float32)
    x[1, 0] = value
    seen = collect(negated(["n", 2]), Batches(({"x": x},)), ["y"], magnitudes=True).tensors["y"].histogram
    assert (seen.huge, seen.amax) == (1, 1.0)


def test_nan_is_refused() -> None:
    x = np.ones((4, 2), np.float32)
    x[2, 1] = np.nan
    with pytest.raises(CalibrationError, match="value 'y' of the graph is NaN in batch 0"):
        collect(negated(["n", 2]), Batches(({"x": x},)), ["y"], magnitudes=True)
