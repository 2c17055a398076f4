"""Rows whose values are far larger than usual are kept, and judged beside the others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from aigc_calibration.calibrate import calibrate
from aigc_calibration.calibrated_plan import plan_chosen, with_choice
from aigc_calibration.config import QuantConfig
from aigc_calibration.formats import SIGNED_FORMAT
from aigc_calibration.loud_rows import LoudRows, judged_beside, loud_rows
from aigc_calibration.prepare import prepare
from aigc_runtime.core.tensors import Array

from .conftest import Batches, make_graph

WIDTH, ROWS, BATCH = 64, 512, 8
RARE = (37, 90, 300)


def rows(start: int, count: int) -> Array:
    """Each row holds its place."""
    return np.arange(start, start + count, dtype=np.float32)[:, None]


def test_the_loudest_rows_are_kept_in_the_order_of_the_data() -> None:
    kept = LoudRows(2)
    for first in (0, 3, 6):
        values = np.ones((3, 5), dtype=np.float32)
        values[0, 2] = -{0: 4.0, 3: 9.0, 6: 30.0}[first]
        masked = np.full((3, 2), -np.inf, dtype=np.float32)
        masked[1] = 7
        others = {
            "quiet": np.zeros((3, 2), np.float32),
            "scalar": np.array(1.0),
            "masked": masked,
            "none": rows(0, 3)[:, :0],
        }
        kept.add({"x": rows(first, 3)}, {"v": values, **others})
    assert kept.seen == 9
    assert [float(feeds["x"][0, 0]) for feeds in kept.behind(0)] == [3.0, 6.0]
    assert [float(feeds["x"][0, 0]) for feeds in kept.behind(4)] == [6.0]


def test_each_value_counts_beside_its_own_mean() -> None:
    kept = LoudRows(1)
    large, small = np.full((8, 1), 1000.0), np.full((8, 1), 0.001)
    large[2], small[5] = 3000.0, 0.02
    kept.add({"x": rows(0, 8)}, {"large": large, "small": small})
    assert float(kept.behind(0)[0]["x"][0, 0]) == 5


def test_what_is_fed_without_rows_cannot_be_run_alone() -> None:
    kept = LoudRows(1)
    kept.add({"x": rows(0, 4), "places": np.arange(3)}, {"v": rows(1, 4)})
    assert kept.seen == 4
    assert kept.behind(0) == []


def test_front_rows_stand_for_all_that_are_not_loud() -> None:
    kept = LoudRows(2)
    values = np.ones((10, 1))
    values[[1, 8]] = 100.0
    kept.add({"x": rows(0, 10)}, {"v": values})
    front = [{"x": rows(0, 3)}]
    judged = judged_beside(front, kept)
    assert [feeds["x"][:, 0].tolist() for feeds in judged.batches] == [[0, 1, 2], [8]]
    assert judged.weights == [1.0, 3 / 9]
    assert judged_beside(front, None).weights == [1.0]


def test_rows_are_kept_where_a_graph_takes_any_number_of_them() -> None:
    data = Batches(tuple({"x": rows(0, 4)} for _ in range(16)))
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    for batch, expected in (("n", True), (4, False)):
        made = make_graph(nodes, {}, {"x": [batch, 1]}, {"y": [batch, 1]})
        assert (loud_rows(made, data) is not None) == expected


def network() -> tuple[ir.Model, Batches]:
    """Two products; a few rows hold a number that is far larger than all others, and that comes to the end."""
    rng = np.random.default_rng(0)
    constants = {f"W{i}": (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32) for i in (0, 1)}
    nodes = [
        helper.make_node("MatMul", ["x", "W0"], ["y"], "first"),
        helper.make_node("Relu", ["y"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "W1"], ["out"], "second"),
    ]
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    x[list(RARE), 5] = 40
    model = make_graph(nodes, constants, {"x": ["n", WIDTH]}, {"out": ["n", WIDTH]})
    return model, Batches(tuple({"x": part} for part in np.split(x, ROWS // BATCH)))


@pytest.mark.parametrize("seen", [True, False])
def test_ranges_that_cut_off_what_rare_rows_hold_are_not_chosen(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is among the rows that are judged first."""
    if not seen:
        monkeypatch.setattr("aigc_calibration.calibrate.loud_rows", lambda *_: None)
    model, data = network()
    ready, config = prepare(model), QuantConfig(equalize=0.0, float_share=0.0)
    calibration = calibrate(ready, data, config, precision="int8")
    _, plan, weights = plan_chosen(ready, data, calibration, config, precision="int8", form=SIGNED_FORMAT)
    assert (plan.ranges["x"].amax > 30) == seen
    assert with_choice(calibration, plan, weights).loud is None
