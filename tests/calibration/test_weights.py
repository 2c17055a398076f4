"""Ranges of each channel of a weight, by every method."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.config import QuantConfig
from aigc_calibration.grids import GRIDS
from aigc_calibration.histogram import Histogram
from aigc_calibration.plan import QuantizationPlan
from aigc_calibration.planner import round_weights
from aigc_calibration.quantize import quantize
from aigc_calibration.ranges import METHODS, Method, find_amax
from aigc_calibration.weights import channel_scales, round_to_channels
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import UnknownNameError

from .conftest import Batches
from .formats import asked

INT8 = GRIDS["int8"]


@pytest.fixture
def weight(rng: np.random.Generator) -> Array:
    """Channels of very different sizes, each with a lone outlier."""
    made = rng.standard_normal((3, 2000)) * np.array([[0.01], [1.0], [50.0]])
    made[:, 7] *= 40
    return np.asarray(made, dtype=np.float32)


def test_minmax_reaches_the_largest(weight: Array) -> None:
    np.testing.assert_allclose(channel_scales(weight, 0, INT8, method="minmax") * 127, np.abs(weight).max(1), rtol=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.9, 100.0])
def test_percentile_is_numpys(percentile: float, weight: Array) -> None:
    found = channel_scales(weight, 0, INT8, method="percentile", percentile=percentile) * 127
    np.testing.assert_allclose(found, np.percentile(np.abs(weight), percentile, axis=1), rtol=1e-5)


def test_kl_is_that_of_each_channel_alone(weight: Array) -> None:
    found = channel_scales(weight, 0, INT8, method="kl") * 127
    for row, amax in zip(weight, found, strict=True):
        histogram = Histogram()
        histogram.update(row)
        assert amax == pytest.approx(find_amax(histogram, "kl", INT8), rel=1e-5)
    assert (found < np.abs(weight).max(1)).all()  # the outlier is clipped


def test_least_squares_is_at_least_as_good_as_the_range_it_starts_from(weight: Array) -> None:
    error = {}
    for method in ("mse", "minmax"):
        scales = channel_scales(weight, 0, INT8, method=method)
        error[method] = ((INT8.round_trip(weight, scales[:, None]) - weight) ** 2).sum(axis=1)
    assert (error["mse"] <= error["minmax"]).all()


@pytest.mark.parametrize("method", list(METHODS))
def test_scales_follow_the_channels(method: Method, weight: Array) -> None:
    """A channel that is a power of two times another has a scale that is the same times the other's."""
    pair = np.stack([weight[1], weight[1] * 4])
    scales = channel_scales(pair, 0, INT8, method=method)
    assert scales[1] / scales[0] == pytest.approx(4, rel=1e-6)
    rounded = round_to_channels("w", pair.T, 1, INT8, method=method)
    np.testing.assert_array_equal(rounded.codes[:, 0], rounded.codes[:, 1])
    zeros = channel_scales(np.zeros((2, 5), np.float32), 0, INT8, method=method)
    assert (zeros > 0).all()


def test_the_configuration_decides(network: tuple[ir.Model, Batches]) -> None:
    model, data = network
    plan: QuantizationPlan = quantize(model, data, QuantConfig(), precision="int8", **asked("tensorrt")).plan
    made = {m: round_weights(model, plan, QuantConfig(weight_ranges=m)) for m in METHODS}
    for name, found in made["minmax"].items():
        assert np.abs(found.codes).max() == 127
        assert (made["mse"][name].scales <= found.scales).all()
    assert any((made["mse"][n].scales < w.scales).any() for n, w in made["minmax"].items())
    with pytest.raises(UnknownNameError, match="range method"):
        QuantConfig(weight_ranges="best")  # type: ignore[arg-type]
