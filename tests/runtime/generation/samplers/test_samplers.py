"""The samplers against what is known in closed form, with no other library.

Data x_0 ~ N(m, s^2) has a best model in closed form, and the probability-flow ODE takes x_T ~ N(0, 1) to
m + s (x_T - alpha_T m) / sqrt(alpha_T^2 s^2 + sigma_T^2): a line, which every deterministic sampler must come close to,
each at its own order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers import SAMPLERS, Prediction, SamplerConfig, predict, sample
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, make_levels

MEAN, DEVIATION = 0.3, 0.5
SMOOTH = ScheduleConfig(timestep_spacing="trailing", clip_sample=False)
ZERO_SNR = ScheduleConfig(
    timestep_spacing="trailing", clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True
)


def best_model(levels: Levels, config: ScheduleConfig) -> Callable[[Array, int], Prediction]:
    def denoise(x: Array, step: int) -> Prediction:
        alpha, sigma = float(levels.alpha[step]), float(levels.sigma[step])
        x0 = MEAN + (x - alpha * MEAN) * (alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2))
        eps = (x - alpha * x0) / sigma
        output = eps if config.prediction_type == "epsilon" else alpha * eps - sigma * x0
        return predict(output.astype(np.float32), x, alpha, sigma, config)

    return denoise


def run_levels(name: str, config: ScheduleConfig, levels: Levels, x: Array, eta: float = 0.0, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    denoise, runs = best_model(levels, config), SamplerConfig(eta=eta)
    for x in sample(name, denoise, x, levels, lambda n: rng.standard_normal(n, dtype=np.float32), runs):  # noqa: B020
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
    return x


def run(name: str, config: ScheduleConfig, steps: int, x: Array, eta: float = 0.0) -> Array:
    return run_levels(name, config, SAMPLERS[name].levels(config, SamplerConfig(), steps), x, eta)


def exact(levels: Levels, x: Array) -> Array:
    """Where the ODE takes x from the first level to the last."""
    (a, s), (b, r) = ((levels.alpha[i], levels.sigma[i]) for i in (0, -1))
    scale = math.sqrt((b**2 * DEVIATION**2 + r**2) / (a**2 * DEVIATION**2 + s**2))
    out: Array = b * MEAN + scale * (x - a * MEAN)
    return out


def even_levels(steps: int) -> Levels:
    """Equal steps of lambda = log(alpha / sigma), where the order of a method shows."""
    lam = np.linspace(-3.0, 3.0, steps + 1)
    alpha = np.sqrt(1 / (1 + np.exp(-2 * lam)))
    return Levels(timesteps=np.arange(steps)[::-1], alpha=alpha, sigma=np.sqrt(1 - alpha**2))


@pytest.mark.parametrize("config", [SMOOTH, ZERO_SNR], ids=["epsilon", "v"])
@pytest.mark.parametrize(
    ("name", "order"),
    [("ddim", 1), ("euler", 1), ("dpmpp_1m", 1), ("dpmpp_2m", 2), ("heun", 2)],
)
def test_deterministic_samplers_follow_the_ode_at_their_order(name: str, order: int, config: ScheduleConfig) -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    found = [np.abs(run_levels(name, config, even_levels(n), x) - exact(even_levels(n), x)).max() for n in (20, 40, 80)]
    for coarse, fine in itertools.pairwise(found):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("config", [SMOOTH, ZERO_SNR], ids=["epsilon", "v-zero-snr"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ddim", 0.05),
        ("euler", 0.05),
        *((name, 0.005) for name in ("dpmpp_2m", "dpmpp_3m", "heun", "lms", "pndm", "unipc")),
    ],
)
def test_deterministic_samplers_reach_the_data(name: str, error: float, config: ScheduleConfig) -> None:
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    assert np.abs(run(name, config, 100, x) - exact(make_levels(config, 100), x)).max() < error


@pytest.mark.any_python
@pytest.mark.parametrize("config", [SMOOTH, ZERO_SNR], ids=["epsilon", "v-zero-snr"])
@pytest.mark.parametrize(
    ("name", "eta"),
    [
        ("ddpm", 0.0),
        ("ddim", 1.0),
        ("ddim", 0.5),
        *((name, 0.0) for name in ("euler_ancestral", "dpmpp_1m_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")),
    ],
)
def test_stochastic_samplers_have_the_right_distribution(name: str, eta: float, config: ScheduleConfig) -> None:
    x = np.random.default_rng(5).standard_normal(20_000, dtype=np.float32)
    found = run(name, config, 250, x, eta)
    error = DEVIATION / math.sqrt(len(x))
    assert abs(float(found.mean()) - MEAN) < 4 * error + 0.01
    assert float(found.std()) == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_prediction_of_x0(name: str) -> None:
    x = np.array([0.7, -1.2], dtype=np.float32)
    levels = make_levels(SMOOTH, 1)
    expected = best_model(levels, SMOOTH)(x, 0).x0
    # PNDM computes (x - sigma eps) / alpha from rounded coefficients.
    rounding = 4 * 2.0**-24 / float(levels.alpha[0]) if name == "pndm" else 0.0
    np.testing.assert_allclose(run(name, SMOOTH, 1, x), expected, rtol=1e-6, atol=rounding)


def test_ddim_with_eta_one_is_ddpm() -> None:
    # Song 2021, section 4.1: eta 1 is the DDPM posterior, whatever the subset of steps.
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    for config in (SMOOTH, ZERO_SNR):
        for steps in (2, 10, 1000):
            a, b = run("ddim", config, steps, x, 1.0), run("ddpm", config, steps, x)
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-3 if steps == 1000 else 2e-4)


def test_ddim_and_euler_are_one_method_without_clipping() -> None:
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    np.testing.assert_allclose(run("ddim", SMOOTH, 20, x), run("euler", SMOOTH, 20, x), atol=2e-4)


@pytest.mark.parametrize(
    ("name", "eta", "draws"),
    [
        ("ddim", 0.0, 0),
        ("ddim", 0.5, 9),
        *((name, 0.0, 0) for name in ("dpmpp_1m", "dpmpp_2m", "dpmpp_3m", "euler", "heun", "lms", "pndm", "unipc")),
        *(
            (name, 0.0, 9)
            for name in ("ddpm", "dpmpp_1m_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "euler_ancestral", "lcm")
        ),
    ],
)
def test_noise_is_drawn_only_where_it_is_used(name: str, eta: float, draws: int) -> None:
    drawn = []

    def noise(shape: tuple[int, ...]) -> Array:
        drawn.append(shape)
        return np.zeros(shape, dtype=np.float32)

    levels, runs = SAMPLERS[name].levels(SMOOTH, SamplerConfig(), 10), SamplerConfig(eta=eta)
    list(sample(name, best_model(levels, SMOOTH), np.zeros(3, dtype=np.float32), levels, noise, runs))
    assert drawn == [(3,)] * draws


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_predict_inverts_the_forward_process(prediction: Any) -> None:
    rng = np.random.default_rng(0)
    x0, eps = rng.uniform(-1, 1, 100).astype(np.float32), rng.standard_normal(100, dtype=np.float32)
    alpha, sigma = 0.6, 0.8
    x = np.float32(alpha) * x0 + np.float32(sigma) * eps
    config = ScheduleConfig(prediction_type=prediction, clip_sample=False)
    output = eps if prediction == "epsilon" else np.float32(alpha) * eps - np.float32(sigma) * x0
    found = predict(output, x, alpha, sigma, config)
    np.testing.assert_allclose(found.x0, x0, atol=1e-6)
    np.testing.assert_allclose(found.eps, eps, atol=1e-6)
    clipped = predict(output, x, alpha, sigma, ScheduleConfig(prediction_type=prediction, clip_sample_range=0.5))
    np.testing.assert_allclose(clipped.x0, np.clip(x0, -0.5, 0.5), atol=1e-6)
    np.testing.assert_array_equal(clipped.eps, found.eps)
