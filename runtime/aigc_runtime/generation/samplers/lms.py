"""Linear multistep: Adams-Bashforth on the probability-flow ODE, over levels that are not evenly spaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["lms"]

ORDER = 4
"""Slopes that are remembered."""


def lms(denoise: Denoise, x: Array, levels: Levels, _noise: Noise, _config: SamplerConfig) -> Iterator[Array]:
    """The slopes dz/ds of up to four levels, joined by a polynomial that is integrated to the next level.

    The ODE is that of Karras et al. 2022, eq. 1: z = x / alpha, s = sigma / alpha, slope d = (x - alpha x_0) / sigma.
    The method is Adams and Bashforth's (Hairer, Norsett & Wanner 1993, section III.5). A slope where there is no
    signal, whose s is infinite, is used for its own step alone, which Euler's method makes exact.
    """
    s = np.divide(levels.sigma, levels.alpha, out=np.full_like(levels.sigma, np.inf), where=levels.alpha > 0)
    slopes: list[tuple[float, Array]] = []
    for i in range(len(levels.timesteps)):
        alpha, sigma, alpha_next, sigma_next = *levels.before(i), *levels.after(i)
        x0 = denoise(x, i).x0
        d = (x - np.float32(alpha) * x0) / np.float32(sigma)
        # Euler's step; the weights sum up to its s' - s, so what is left is by how much older slopes differ.
        x = np.float32(alpha_next) * x0 + np.float32(sigma_next) * d
        if alpha > 0:
            older, slopes = slopes, [(float(s[i]), d), *slopes[: ORDER - 2]]
            weights = _weights([float(s[i]), *(node for node, _ in older)], float(s[i]), float(s[i + 1]))
            for weight, (_, slope) in zip(weights[1:], older, strict=True):
                x = x + np.float32(alpha_next * weight) * (slope - d)
        yield x


def _weights(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Integrals from `start` to `end` of the polynomials that are 1 at one node and 0 at the others (Lagrange).

    >>> _weights([1.0, 2.0], 1.0, 0.0)
    [-1.5, 0.5]
    """
    weights = []
    for j, node in enumerate(nodes):
        others = [other - start for k, other in enumerate(nodes) if k != j]
        # Around `start`, so that the powers stay small.
        basis = np.poly1d(others, r=True) / np.prod([node - start - other for other in others])
        integral = basis.integ()
        weights.append(float(integral(end - start) - integral(0.0)))
    return weights
