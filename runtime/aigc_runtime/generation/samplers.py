"""Sampling algorithms of diffusion models: one function each, over a `denoise` callable.

A sampler is a generator: it yields the sample after every step, and the caller may stop at any time.

| code | paper |
| --- | --- |
| alpha, sigma | x_t = alpha_t x_0 + sigma_t epsilon (Lu 2022); alpha^2 is alpha-bar of Ho 2020, alpha of Song 2021 |
| lam | lambda_t = log(alpha_t / sigma_t), half the log signal-to-noise ratio (Lu 2022) |
| x, x0, eps | x_t and the predictions of x_0 and epsilon |
| z, s | sample and sigma of Karras et al. 2022: x_t / alpha_t and sigma_t / alpha_t |

Coefficients are computed in float64 and applied to float32 arrays. Every algorithm takes any levels that get less
noisy from step to step, a first level without signal and a last one without noise included.

Conventions, where libraries differ: x_T is standard normal for every algorithm; the level after the last visited step
is clean data (diffusers: `set_alpha_to_one=True`, `final_sigmas_type="zero"`); all algorithms visit the same steps; a
clipped or thresholded x_0 is used wherever x_0 is, epsilon stays as the model gave it; no noise is added after the last
step (Ho 2020, algorithm 2), where diffusers' DDPM adds some unless that step is t = 0. Tests hold the agreement with
diffusers: test_samplers_vs_diffusers.py and test_diffusion_vs_diffusers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError
from aigc_runtime.generation.schedules import Levels, ScheduleConfig

__all__ = ["SAMPLERS", "Denoise", "Noise", "Prediction", "Sampler", "ddim", "ddpm", "dpmpp_2m", "euler", "predict"]


class Prediction(NamedTuple):
    """What a model's output says about a noisy sample.

    Attributes:
        x0: the clean sample, float32, shape of the sample.
        eps: the noise, float32, shape of the sample.
        variance: what a model that learns it says about the variance, in the terms of its `variance_type`; else None.
    """

    x0: Array
    eps: Array
    variance: Array | None = None


Denoise = Callable[[Array, int], Prediction]
"""Called as denoise(x, step): x_t float32 at the step-th level of the run."""

Noise = Callable[[tuple[int, ...]], Array]
"""Called as noise(shape): standard normal float32."""

Sampler = Callable[[Denoise, Array, Levels, Noise, float], Iterator[Array]]
"""Called as sampler(denoise, x_T, levels, noise, eta); yields x after each of the N steps."""


def predict(output: Array, x: Array, alpha: float, sigma: float, config: ScheduleConfig) -> Prediction:
    """Turn a model's output into x_0 and epsilon.

    epsilon: x_0 = (x - sigma eps) / alpha (Ho 2020, eq. 15). v: x_0 = alpha x - sigma v, eps = alpha v + sigma x
    (Salimans & Ho 2022, appendix D). sample: x_0 is the output, eps = (x - alpha x_0) / sigma.
    """
    a, s = np.float32(alpha), np.float32(sigma)
    variance = None
    if config.learns_variance:
        output, variance = output[:, : x.shape[1]], output[:, x.shape[1] :]
    if config.prediction_type == "epsilon":
        x0, eps = (x - s * output) / a, output
    elif config.prediction_type == "sample":
        x0, eps = output, (x - a * output) / s
    else:
        x0, eps = a * x - s * output, a * output + s * x
    if config.thresholding:
        x0 = _threshold(x0, config.dynamic_thresholding_ratio, config.sample_max_value)
    elif config.clip_sample:
        x0 = np.clip(x0, -config.clip_sample_range, config.clip_sample_range)
    return Prediction(x0, eps, variance)


def _threshold(x0: Array, ratio: float, most: float) -> Array:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): s of an image is that quantile of |x_0|, 1 to `most`."""
    flat = x0.reshape(len(x0), -1)
    s = np.clip(np.quantile(np.abs(flat), ratio, axis=1), 1.0, most).astype(np.float32)[:, None]
    scaled: Array = (np.clip(flat, -s, s) / s).reshape(x0.shape)
    return scaled


def ddpm(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 1.0) -> Iterator[Array]:
    """Ancestral sampling (Ho 2020, algorithm 2) with the posterior of eq. 6 and 7, over any subset of steps.

    The variance is that of `levels.variance_type`; after the last step there is none, whatever its type. `eta` is not
    used.

    Raises:
        EngineError: a learned variance below zero.
    """
    for i in range(len(levels.timesteps)):
        a, a_prev = levels.alpha[i] ** 2, levels.alpha[i + 1] ** 2
        b, b_prev = levels.sigma[i] ** 2, levels.sigma[i + 1] ** 2
        step_alpha, step_beta = a / a_prev, 1 - a / a_prev
        prediction = denoise(x, i)
        c_x0, c_x = math.sqrt(a_prev) * step_beta / b, math.sqrt(step_alpha) * b_prev / b
        x = np.float32(c_x0) * prediction.x0 + np.float32(c_x) * x
        if b_prev > 0:
            deviation = _deviation(levels.variance_type, b_prev / b * step_beta, step_beta, prediction.variance, i)
            x = x + deviation * noise(x.shape)
        yield x


def _deviation(kind: str, small: float, large: float, learned: Array | None, step: int) -> Array | np.float32:
    """Standard deviation of the noise of one step; `small` is beta-tilde, `large` beta."""
    if kind == "fixed_large":
        return np.float32(math.sqrt(large))
    if learned is None or not kind.startswith("learned"):
        return np.float32(math.sqrt(small))
    if kind == "learned":
        if learned.min() < 0:
            raise EngineError(
                f"the model gives a variance below zero at step {step + 1}: {learned.min():.3g}",
                hint="with variance_type 'learned' the second half of its output is the variance; check the schedule",
            )
        return np.asarray(np.sqrt(learned))
    # Nichol & Dhariwal 2021, eq. 15: the variance's logarithm lies between those of the two, v being (1 + output) / 2.
    v = (learned + np.float32(1)) / np.float32(2)
    log_large, log_small = np.float32(math.log(large)), np.float32(math.log(small))
    return np.asarray(np.exp(np.float32(0.5) * (v * log_large + (np.float32(1) - v) * log_small)))


def ddim(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 0.0) -> Iterator[Array]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16); eta 0 is deterministic."""
    for i in range(len(levels.timesteps)):
        a, a_prev = levels.alpha[i] ** 2, levels.alpha[i + 1] ** 2
        x0, eps, _ = denoise(x, i)
        deviation = eta * levels.sigma[i + 1] / levels.sigma[i] * math.sqrt(1 - a / a_prev)
        direction = math.sqrt(max(0.0, levels.sigma[i + 1] ** 2 - deviation**2))
        x = np.float32(levels.alpha[i + 1]) * x0 + np.float32(direction) * eps
        if deviation > 0:
            x = x + np.float32(deviation) * noise(x.shape)
        yield x


def dpmpp_2m(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 0.0) -> Iterator[Array]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): second order, one evaluation per step, deterministic.

    The first step has no history and the one that leaves no noise has an infinite h: both are of first order (the
    latter is what libraries call `lower_order_final`). `noise` and `eta` are not used.
    """
    with np.errstate(divide="ignore"):
        lam = np.log(levels.alpha) - np.log(levels.sigma)  # -inf where there is no signal, +inf at the clean end
    before: Array | None = None
    for i in range(len(levels.timesteps)):
        x0 = denoise(x, i).x0
        h = lam[i + 1] - lam[i]
        d = x0
        if before is not None and levels.sigma[i + 1] > 0:
            # 1 / (2 r) with r = h_{i-1} / h_i; zero after a step from no signal, whose h is infinite.
            half = h / (2 * (lam[i] - lam[i - 1]))
            d = np.float32(1 + half) * x0 - np.float32(half) * before
        c_x, c_d = levels.sigma[i + 1] / levels.sigma[i], -levels.alpha[i + 1] * math.expm1(-h)
        x = np.float32(c_x) * x + np.float32(c_d) * d
        before = x0
        yield x


def euler(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 0.0) -> Iterator[Array]:
    """Euler's method on the probability-flow ODE dz/ds = (z - D(z; s)) / s (Karras et al. 2022, algorithm 1, no churn).

    Karras' sample is z = x / alpha and D is x_0, so a step is z' = x_0 + (z - x_0) s' / s. Multiplied by alpha', with
    alpha' s' / (alpha s) = sigma' / sigma, nothing is divided by alpha, and a start without signal is exact. Without
    clipping this is DDIM with eta 0; with clipping, DDIM keeps the model's own epsilon and Euler follows x_0. `noise`
    and `eta` are not used.
    """
    for i in range(len(levels.timesteps)):
        x0 = denoise(x, i).x0
        shrink = levels.sigma[i + 1] / levels.sigma[i]
        x = np.float32(levels.alpha[i + 1]) * x0 + np.float32(shrink) * (x - np.float32(levels.alpha[i]) * x0)
        yield x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m, "euler": euler}
