"""Euler's method on the probability-flow ODE, without and with fresh noise (Karras et al. 2022).

| code | paper |
| --- | --- |
| z, s | the sample and sigma there: x / alpha and sigma / alpha |
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["euler", "euler_ancestral"]


def euler(denoise: Denoise, x: Array, levels: Levels, _noise: Noise, _config: SamplerConfig) -> Iterator[Array]:
    """Euler's method on the probability-flow ODE dz/ds = (z - D(z; s)) / s (Karras et al. 2022, algorithm 1, no churn).

    Karras' sample is z = x / alpha and D is x_0, so a step is z' = x_0 + (z - x_0) s' / s. Multiplied by alpha', with
    alpha' s' / (alpha s) = sigma' / sigma, nothing is divided by alpha, and a start without signal is exact. Without
    clipping this is DDIM with eta 0; with clipping, DDIM keeps the model's own epsilon and Euler follows x_0.
    """
    for i in range(len(levels.timesteps)):
        x0 = denoise(x, i).x0
        shrink = levels.sigma[i + 1] / levels.sigma[i]
        x = np.float32(levels.alpha[i + 1]) * x0 + np.float32(shrink) * (x - np.float32(levels.alpha[i]) * x0)
        yield x


def euler_ancestral(
    denoise: Denoise, x: Array, levels: Levels, noise: Noise, _config: SamplerConfig
) -> Iterator[Array]:
    """Euler's method down to s_down, and fresh noise from there up to the next level (Karras 2022, appendix B.6).

    The noise has the variance s_up^2 = s'^2 (s^2 - s'^2) / s^2 of the ancestral step, and s_down^2 = s'^2 - s_up^2, so
    s_down = s'^2 / s. With q = s' / s the step is, times alpha': alpha' x_0 + sigma' (q d + sqrt(1 - q^2) noise), where
    d = (x - alpha x_0) / sigma is the noise in the sample. q is 0 for a step from no signal.
    """
    for i in range(len(levels.timesteps)):
        x0 = denoise(x, i).x0
        alpha, sigma, alpha_next, sigma_next = *levels.before(i), *levels.after(i)
        d = (x - np.float32(alpha) * x0) / np.float32(sigma)
        q = sigma_next * alpha / (alpha_next * sigma)
        x = np.float32(alpha_next) * x0 + np.float32(sigma_next * q) * d
        if sigma_next > 0:
            x = x + np.float32(sigma_next * math.sqrt(max(0.0, 1 - q * q))) * noise(x.shape)
        yield x
