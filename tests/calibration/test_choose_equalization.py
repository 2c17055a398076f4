"""The strength of an equalization is the one that harms the outputs least."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration import eight_bit_noise
from aigc_calibration.calibrate import calibrate, smoothed
from aigc_calibration.choose_equalization import STRENGTHS
from aigc_calibration.config import QuantConfig
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError

from .conftest import Batches
from .test_equalize import CHANNELS, CONSTANTS, data_of, first, leaky, network, second


def quiet_channels_matter(factor: Array) -> tuple[ir.Model, Batches]:
    """What reads the channels multiplies them by a factor of their own."""
    model = network([first(), leaky(), second("a")])
    weight = np.asarray(CONSTANTS["w2"]) * factor.reshape(1, -1, 1, 1)
    model.graph.initializers["w2"].const_value = ir.tensor(np.asarray(weight, np.float32), name="w2")
    return model, data_of(model)


def test_it_is_done_where_it_helps() -> None:
    """Channels that are read as loudly as they are quiet gain."""
    model, data = quiet_channels_matter(np.geomspace(20, 1, CHANNELS))
    told: list[tuple[str, int, int]] = []
    found = calibrate(model, data, QuantConfig(), precision="int8", progress=lambda *step: told.append(step))
    assert (found.equalization, set(found.channels)) == (0.5, {"c", "a"})
    assert smoothed(model, found)[1] == ("channels of 1 results equalized, strength 0.5",)
    assert [step for step in told if step[0] == "choice of equalization"] == [
        ("choice of equalization", tried, len(STRENGTHS)) for tried in (1, 2)
    ]


@pytest.mark.parametrize("noise", [[1.0, 1.1], [1.0, 1.0], [1.0, np.inf]])
def test_it_is_left_where_it_harms_or_does_nothing(noise: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = quiet_channels_matter(np.geomspace(20, 1, CHANNELS))
    found = iter(noise)
    monkeypatch.setattr(eight_bit_noise, "output_noise", lambda *_: next(found))
    calibration = calibrate(model, data, QuantConfig(), precision="int8")
    assert (calibration.equalization, dict(calibration.channels)) == (0.0, {})
    assert smoothed(model, calibration) == (model, ())


@pytest.mark.parametrize("asked", [True, False])
def test_nothing_is_tried_where_nothing_can_be_scaled_or_a_strength_was_asked_for(asked: bool) -> None:
    model, data = quiet_channels_matter(np.ones(CHANNELS)) if asked else (network([first("y")]), None)
    told: list[str] = []
    found = calibrate(
        model,
        data or data_of(model),
        QuantConfig(equalize=0.5 if asked else None),
        precision="int8",
        progress=lambda what, *_: told.append(what),
    )
    assert "choice of equalization" not in told
    assert bool(found.channels) == asked


def test_a_choice_can_be_stopped() -> None:
    model, data = quiet_channels_matter(np.ones(CHANNELS))
    with pytest.raises(CancelledError):
        calibrate(model, data, QuantConfig(), precision="int8", progress=lambda what, *_: "choice" not in what)


def test_a_few_rows_are_enough() -> None:
    """However many samples there are, and where there is one alone."""
    model, data = quiet_channels_matter(np.geomspace(20, 1, CHANNELS))
    one = Batches(({"x": data.feeds[0]["x"][:1]},))
    assert calibrate(model, one, QuantConfig(), precision="int8").equalization == 0.5
    assert data.rows > 1
