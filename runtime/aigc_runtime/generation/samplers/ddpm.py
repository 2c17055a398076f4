"""Ancestral sampling: denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["ddpm"]

MIN_VARIANCE = 1e-20
"""diffusers' least variance, whose logarithm a learned range is measured from where nothing is left to add."""


def ddpm(denoise: Denoise, x: Array, levels: Levels, noise: Noise, config: SamplerConfig) -> Iterator[Array]:
    """Ancestral sampling (Ho 2020, algorithm 2) with the posterior of eq. 6 and 7, over any subset of steps.

    The variance is that of `levels.variance_type`. After the last step there is none, whatever its type (algorithm 2);
    diffusers adds it there, too, unless that step is the schedule's first.

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
        if b_prev > 0 or (config.follows == "diffusers" and levels.timesteps[i] > 0):
            small = max(b_prev / b * step_beta, MIN_VARIANCE)
            deviation = _deviation(levels.variance_type, small, step_beta, prediction.variance, i)
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
