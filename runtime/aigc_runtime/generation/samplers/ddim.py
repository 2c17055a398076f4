"""Denoising diffusion implicit models (Song et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["ddim"]


def ddim(denoise: Denoise, x: Array, levels: Levels, noise: Noise, config: SamplerConfig) -> Iterator[Array]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16); `config.eta` 0 is deterministic."""
    for i in range(len(levels.timesteps)):
        alpha_next, sigma_next = levels.after(i)
        a, a_prev = levels.alpha[i] ** 2, alpha_next**2
        x0, eps, _ = denoise(x, i)
        deviation = config.eta * sigma_next / levels.sigma[i] * math.sqrt(max(0.0, 1 - a / a_prev))
        direction = math.sqrt(max(0.0, sigma_next**2 - deviation**2))
        x = np.float32(alpha_next) * x0 + np.float32(direction) * eps
        if deviation > 0:
            x = x + np.float32(deviation) * noise(x.shape)
        yield x
