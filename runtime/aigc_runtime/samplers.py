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
clipped x_0 is used wherever x_0 is, epsilon stays as the model gave it. tests/runtime/test_samplers_vs_diffusers.py
holds the agreement with diffusers' schedulers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from aigc_runtime.schedules import Levels, ScheduleConfig
from aigc_runtime.tensors import Array

__all__ = ["SAMPLERS", "Denoise", "Noise", "Prediction", "Sampler", "ddim", "ddpm", "dpmpp_2m", "euler", "predict"]


class Prediction(NamedTuple):
    """What a model's output says about a noisy sample.

    Attributes:
        x0: the clean sample, float32, shape of the sample.
        eps: the noise, float32, shape of the sample.
    """

    x0: Array
    eps: Array


Denoise = Callable[[Array, int], Prediction]
"""Called as denoise(x, step): x_t float32 at the step-th level of the run."""

Noise = Callable[[tuple[int, ...]], Array]
"""Called as noise(shape): standard normal float32."""

Sampler = Callable[[Denoise, Array, Levels, Noise, float], Iterator[Array]]
"""Called as sampler(denoise, x_T, levels, noise, eta); yields x after each of the N steps."""


def predict(output: Array, x: Array, alpha: float, sigma: float, config: ScheduleConfig) -> Prediction:
    """Turn a model's output into x_0 and epsilon.

    epsilon: x_0 = (x - sigma eps) / alpha (Ho 2020, eq. 15). v: x_0 = alpha x - sigma v, eps = alpha v + sigma x
    (Salimans & Ho 2022, appendix D).
    """
    a, s = np.float32(alpha), np.float32(sigma)
    if config.prediction_type == "epsilon":
        x0, eps = (x - s * output) / a, output
    else:
        x0, eps = a * x - s * output, a * output + s * x
    if config.clip_sample:
        x0 = np.clip(x0, -config.clip_sample_range, config.clip_sample_range)
    return Prediction(x0, eps)


def ddpm(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 1.0) -> Iterator[Array]:
    """Ancestral sampling (Ho 2020, algorithm 2) with the posterior of eq. 6 and 7, over any subset of steps.

    The variance is the posterior's own (beta-tilde, "fixed small"). `eta` is not used.
    """
    for i in range(len(levels.timesteps)):
        a, a_prev = levels.alpha[i] ** 2, levels.alpha[i + 1] ** 2
        b, b_prev = levels.sigma[i] ** 2, levels.sigma[i + 1] ** 2
        step_alpha, step_beta = a / a_prev, 1 - a / a_prev
        x0, _ = denoise(x, i)
        c_x0, c_x = math.sqrt(a_prev) * step_beta / b, math.sqrt(step_alpha) * b_prev / b
        x = np.float32(c_x0) * x0 + np.float32(c_x) * x
        variance = b_prev / b * step_beta
        if variance > 0:
            x = x + np.float32(math.sqrt(variance)) * noise(x.shape)
        yield x


def ddim(denoise: Denoise, x: Array, levels: Levels, noise: Noise, eta: float = 0.0) -> Iterator[Array]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16); eta 0 is deterministic."""
    for i in range(len(levels.timesteps)):
        a, a_prev = levels.alpha[i] ** 2, levels.alpha[i + 1] ** 2
        x0, eps = denoise(x, i)
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
        x0, _ = denoise(x, i)
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
        x0, _ = denoise(x, i)
        shrink = levels.sigma[i + 1] / levels.sigma[i]
        x = np.float32(levels.alpha[i + 1]) * x0 + np.float32(shrink) * (x - np.float32(levels.alpha[i]) * x0)
        yield x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m, "euler": euler}
