"""Multistep sampling of latent consistency models (Luo et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["lcm"]

DATA_DEVIATION = 0.5
"""sigma_data of the boundary condition (Song et al. 2023, appendix C)."""


def lcm(denoise: Denoise, x: Array, levels: Levels, noise: Noise, config: SamplerConfig) -> Iterator[Array]:
    """Jump to clean data, and add the noise of the next level (Luo et al. 2023, algorithm 3); no noise at the end.

    The consistency function is c_skip x + c_out x_0, with c_skip = d^2 / (t^2 + d^2) and c_out = t / sqrt(t^2 + d^2) of
    the scaled step t, which leave a sample at t = 0 as it is.
    """
    count = len(levels.timesteps)
    for i in range(count):
        t = float(levels.timesteps[i]) * config.timestep_scaling
        reach = t**2 + DATA_DEVIATION**2
        clean = np.float32(t / math.sqrt(reach)) * denoise(x, i).x0 + np.float32(DATA_DEVIATION**2 / reach) * x
        if i + 1 < count:
            x = np.float32(levels.alpha[i + 1]) * clean + np.float32(levels.sigma[i + 1]) * noise(x.shape)
        else:
            x = clean
        yield x
