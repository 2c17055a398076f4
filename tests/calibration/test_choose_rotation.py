"""Streams are rotated where that makes less noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.cache import read_calibration, write_calibration
from aigc_calibration.calibrate import calibrate, smoothed
from aigc_calibration.choose_rotation import TRIED
from aigc_calibration.config import QuantConfig
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import open_onnx
from aigc_calibration.plan import SitePrecision
from aigc_calibration.prepare import prepare
from aigc_calibration.quantize import quantize
from aigc_calibration.sites import weight_array
from aigc_runtime.errors import CancelledError

from .conftest import Batches, small_network
from .decoder import decoder

CONFIG = QuantConfig(float_share=0.0, ranges="minmax")


def test_a_loud_channel_is_mixed_with_the_others() -> None:
    model, data = decoder(loud=30.0)
    told: list[tuple[str, int, int]] = []
    found = calibrate(model, data, CONFIG, precision="int8", progress=lambda *step: told.append(step))
    assert found.rotated
    assert [step for step in told if "rotation" in step[0]] == [("choice of rotation", i, TRIED) for i in (1, 2)]
    assert smoothed(model, found)[1] == ("1 residual stream rotated",)

    def noise(rotated: bool) -> float:
        made = quantize(model, data, replace(CONFIG, rotate=rotated), precision="int8")
        exact, run = open_onnx(model), open_onnx(made.graph)
        x, y = (np.concatenate([f(feeds)["y"] for feeds in data.feeds]).astype(np.float64) for f in (exact, run))
        return float(np.square(x - y).sum() / np.square(x).sum())

    assert noise(True) < 0.3 * noise(False)


def test_loud_weights_stay_where_they_are() -> None:
    """Columns with one number that is not 0 are exact in 8 bits; mixed, they have all numbers."""
    model, data = decoder()
    for name in ("up0", "up1", "head"):
        ones = np.eye(*weight_array(model, name).shape, dtype=np.float32)
        model.graph.initializers[name].const_value = ir.tensor(ones, name=name)
    found = calibrate(model, data, CONFIG, precision="int8")
    assert not found.rotated
    assert smoothed(model, found) == (model, ())


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_done(asked: bool) -> None:
    model, data = decoder(loud=1.0 if asked else 300.0)
    told: list[str] = []
    config = replace(CONFIG, rotate=asked)
    found = calibrate(model, data, config, precision="int8", progress=lambda what, *_: told.append(what))
    assert found.rotated == asked
    assert "choice of rotation" not in told


@pytest.mark.parametrize("precision", ["fp8", "fp16"])
def test_other_precisions_have_digits_for_quiet_channels(precision: SitePrecision) -> None:
    model, data = decoder(loud=30.0)
    assert not calibrate(model, data, replace(CONFIG, rotate=True), precision=precision).rotated


def test_a_network_without_a_stream() -> None:
    model, data = small_network()
    assert not calibrate(prepare(model), data, replace(CONFIG, rotate=True), precision="int8").rotated


def test_a_file_keeps_the_choice(tmp_path: Path) -> None:
    model, data = decoder(loud=30.0)
    found = calibrate(model, data, CONFIG, precision="int8")
    path = tmp_path / "ranges.npz"
    write_calibration(path, found)
    again = read_calibration(path)
    assert again.rotated
    one = Batches(data.feeds[:1])
    fresh, kept = (quantize(model, one, CONFIG, precision="int8", calibration=c) for c in (found, again))
    assert kept.plan.dump() == fresh.plan.dump()
    with pytest.raises(CalibrationError, match="incomplete"):
        quantize(model, one, CONFIG, precision="int8", calibration=replace(again, rotated=False))


def test_a_choice_can_be_stopped() -> None:
    model, data = decoder()
    with pytest.raises(CancelledError):
        calibrate(model, data, CONFIG, precision="int8", progress=lambda what, *_: "rotation" not in what)
