"""Ranges against brute force and against what is known of the distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from aigc_calibration.grids import GRIDS
from aigc_calibration.histogram import Histogram
from aigc_calibration.ranges import METHODS, Method, affine_scale, find_amax, find_bounds
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, UnknownNameError

INT8 = GRIDS["int8"]


def histogram_of(values: Array) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype(np.float32))
    return histogram


def error_of(values: Array, amax: float) -> float:
    return float(((INT8.round_trip(values, INT8.scale_for(amax)) - values) ** 2).mean())


def test_minmax_clips_nothing(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1000)
    assert find_amax(histogram_of(values), "minmax", INT8) == pytest.approx(np.abs(values).max(), rel=1e-6)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpys_to_a_bin(percentile: float, rng: np.random.Generator) -> None:
    values = rng.standard_normal(20_000)
    histogram = histogram_of(values)
    found = find_amax(histogram, "percentile", INT8, percentile=percentile)
    expected = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert abs(found - expected) <= 2 * histogram.width


def test_percentile_counts_zeros(rng: np.random.Generator) -> None:
    values = np.concatenate([np.zeros(9000), rng.uniform(0, 1, 1000)])
    assert find_amax(histogram_of(values), "percentile", INT8, percentile=95) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("draw", ["standard_normal", "laplace", "uniform", "student"])
def test_mse_is_as_good_as_a_search_on_the_values_themselves(draw: str, rng: np.random.Generator) -> None:
    values = (rng.standard_t(3, 30_000) if draw == "student" else getattr(rng, draw)(size=30_000)).astype(np.float32)
    found = error_of(values, find_amax(histogram_of(values), "mse", INT8))
    top = float(np.abs(values).max())
    best = min(
        optimize.minimize_scalar(
            lambda a: error_of(values, a), bounds=(low * top, (low + 0.2) * top), method="bounded"
        ).fun
        for low in (0.05, 0.2, 0.4, 0.6, 0.8)
    )
    assert found <= best * 1.01


def test_mse_of_gaussian_noise_clips_near_four_sigma(rng: np.random.Generator) -> None:
    """8-bit uniform quantization of a normal density is best near 3.92 sigma (Banner et al. 2019, table 1: 3.89)."""
    values = rng.standard_normal(400_000)
    assert find_amax(histogram_of(values), "mse", INT8) == pytest.approx(3.92, abs=0.15)


def test_kl_leaves_exact_zeros_out(rng: np.random.Generator) -> None:
    values = rng.laplace(size=50_000)
    with_zeros = np.concatenate([values, np.zeros(200_000)])
    assert find_amax(histogram_of(with_zeros), "kl", INT8) == find_amax(histogram_of(values), "kl", INT8)


def test_kl_clips_a_lone_outlier(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.uniform(-1, 1, 100_000), [50.0]])
    assert find_amax(histogram_of(values), "kl", INT8) < 10


@pytest.mark.parametrize("method", list(METHODS))
def test_zeros_and_single_values(method: Method) -> None:
    assert find_amax(Histogram(), method, INT8) == 0.0
    assert find_amax(histogram_of(np.zeros(10)), method, INT8) == 0.0
    assert find_amax(histogram_of(np.full(10, -3.0)), method, INT8) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("method", list(METHODS))
def test_ranges_scale_with_the_values(method: Method, rng: np.random.Generator) -> None:
    values = rng.laplace(size=20_000)
    one, eight = (find_amax(histogram_of(values * s), method, INT8) for s in (1.0, 8.0))
    assert eight == pytest.approx(8 * one, rel=1e-6)


# With a zero point


def affine_error(values: Array, low: float, high: float) -> float:
    """Independent of the code under test: QuantizeLinear and DequantizeLinear of ONNX (opset 20), u8."""
    scale, zero = affine_scale(low, high)
    codes = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float((((codes - zero) * scale - values) ** 2).mean())


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def test_bounds_of_minmax_are_the_ends(rng: np.random.Generator) -> None:
    values = rng.normal(0.3, 1, 1000)
    assert find_bounds(histogram_of(values), "minmax") == pytest.approx((values.min(), values.max()), rel=1e-6)
    # Zero is always among the codes.
    assert find_bounds(histogram_of(np.abs(values) + 1), "minmax")[0] == 0.0
    assert find_bounds(histogram_of(-np.abs(values) - 1), "minmax")[1] == 0.0


@pytest.mark.parametrize("low", [-7.0, -0.3, -0.001, 0.0])
def test_zero_is_a_code(low: float) -> None:
    scale, zero = affine_scale(low, 4.0)
    assert scale * 255 == pytest.approx(4.0 - low)
    assert (0 - zero) * scale == pytest.approx(low, abs=scale / 2)


@pytest.mark.parametrize("draw", ["normal", "silu", "laplace", "relu", "shifted"])
def test_bounds_of_mse_are_as_good_as_a_search_on_the_values_themselves(draw: str, rng: np.random.Generator) -> None:
    noise = rng.standard_normal(8_000)
    values = {
        "normal": noise,
        "silu": silu(2 * noise),
        "laplace": rng.laplace(size=8_000),
        "relu": np.maximum(noise, 0),
        "shifted": noise - 1.5,
    }[draw].astype(np.float32)
    low, high = find_bounds(histogram_of(values), "mse")
    ends = (min(float(values.min()), 0.0), max(float(values.max()), 0.0))
    best = min(
        affine_error(values, ends[0] * a, ends[1] * b) for a in np.linspace(0.2, 1, 41) for b in np.linspace(0.2, 1, 41)
    )
    assert affine_error(values, low, high) <= best * 1.02
    symmetric = error_of(values, find_amax(histogram_of(values), "mse", INT8))
    assert affine_error(values, low, high) <= symmetric * 1.01


def test_a_zero_point_gains_most_of_a_bit_behind_silu(rng: np.random.Generator) -> None:
    values = silu(2 * rng.standard_normal(30_000)).astype(np.float32)
    symmetric = error_of(values, find_amax(histogram_of(values), "mse", INT8))
    assert affine_error(values, *find_bounds(histogram_of(values), "mse")) < symmetric / 2.5  # 4 dB


@pytest.mark.parametrize("method", list(METHODS))
def test_bounds_of_zeros_and_of_one_sign(method: Method) -> None:
    assert find_bounds(Histogram(), method) == (0.0, 0.0)
    assert find_bounds(histogram_of(np.zeros(10)), method) == (0.0, 0.0)
    low, high = find_bounds(histogram_of(np.full(10, -3.0)), method)
    assert low == pytest.approx(-3.0, rel=0.02)
    assert high == 0.0


def test_bounds_see_what_a_saturating_function_flattens(rng: np.random.Generator) -> None:
    values = np.concatenate([rng.uniform(-30, 0, 5000), rng.normal(0, 1, 5000)])
    low, high = find_bounds(histogram_of(values), "mse", through=np.tanh)
    assert low > -6
    assert find_bounds(histogram_of(values), "mse")[0] < -25
    assert high > 1


def test_bad_arguments() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown range method 'entropy'"):
        find_amax(Histogram(), "entropy", INT8)  # type: ignore[arg-type]
    for percentile in (0.0, 100.1):
        with pytest.raises(ConfigError, match="percentile"):
            find_amax(Histogram(), "percentile", INT8, percentile=percentile)


def test_grids_round_as_the_engines_do() -> None:
    np.testing.assert_array_equal(
        INT8.round_codes(np.array([0.5, 1.5, -0.5, 200, -200, -127.6])), [0, 2, 0, 127, -127, -127]
    )
    torch = pytest.importorskip("torch")
    values = np.concatenate([np.linspace(-500, 500, 10_001), np.logspace(-4, 2.7, 1000)]).astype(np.float32)
    expected = torch.from_numpy(np.clip(values, -448, 448)).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(GRIDS["fp8"].round_codes(values), expected)
