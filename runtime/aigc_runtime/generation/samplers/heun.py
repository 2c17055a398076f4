"""Heun's method on the probability-flow ODE (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["heun"]


def heun(denoise: Denoise, x: Array, levels: Levels, _noise: Noise, _config: SamplerConfig) -> Iterator[Array]:
    """Heun's method (Karras et al. 2022, algorithm 1, no churn): second order, two evaluations per step but the last.

    With z = x / alpha and s = sigma / alpha, the slope dz/ds is d = (x - alpha x_0) / sigma. Euler's step gives
    alpha' x_0 + sigma' d; the mean of both slopes adds (d' - d) / 2 times alpha' (s' - s), which is
    sigma' - sigma alpha' / alpha. The last step, and one from no signal, whose s is infinite, are Euler's.
    """
    count = len(levels.timesteps)
    for i in range(count):
        alpha, sigma, alpha_next, sigma_next = *levels.before(i), *levels.after(i)
        x0 = denoise(x, i).x0
        d = (x - np.float32(alpha) * x0) / np.float32(sigma)
        x = np.float32(alpha_next) * x0 + np.float32(sigma_next) * d
        if i + 1 < count and alpha > 0:
            there = denoise(x, i + 1).x0
            d_next = (x - np.float32(alpha_next) * there) / np.float32(sigma_next)
            x = x + np.float32((sigma_next - sigma * alpha_next / alpha) / 2) * (d_next - d)
        yield x
