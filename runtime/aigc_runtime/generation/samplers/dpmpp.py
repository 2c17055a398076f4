"""DPM-Solver++ of multiple steps, as an ODE and as an SDE (Lu et al. 2022b).

| code | paper |
| --- | --- |
| lam | lambda_t = log(alpha_t / sigma_t), half the log signal-to-noise ratio |
| h, r0, r1 | h_i; h_{i-1} / h_i and h_{i-2} / h_i |
| d0, d1, d2 | x_0 and its first and second divided differences, times h and h^2 / 2 |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["dpmpp_1m", "dpmpp_1m_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde"]

FEW_STEPS = 15
"""Below so many, `lower_order_final` lowers the order of the last steps."""


def _dpmpp(
    denoise: Denoise,
    x: Array,
    levels: Levels,
    noise: Noise,
    config: SamplerConfig,
    *,
    order: int,
    stochastic: bool,
) -> Iterator[Array]:
    """DPM-Solver++ (Lu et al. 2022b): one evaluation per step, of first (eq. 4.1), second (2M) or third order.

    The first steps have no history, and the one that leaves no noise has an infinite h, as has one from no signal: they
    are of lower order.
    """
    with np.errstate(divide="ignore"):
        lam = np.log(levels.alpha) - np.log(levels.sigma)  # -inf where there is no signal, +inf at the clean end
    count = len(levels.timesteps)
    x0s: list[Array] = []
    for i in range(count):
        x0s = [denoise(x, i).x0, *x0s[:2]]
        h = float(lam[i + 1] - lam[i])
        most = order
        few = config.lower_order_final and levels.skipped + count < FEW_STEPS
        if levels.sigma[i + 1] == 0 or (i + 1 == count and (config.euler_at_final or few)):
            most = 1
        elif i + 2 == count and few:
            most = min(order, 2)
        ratios = [float(lam[i - k] - lam[i - k - 1]) / h for k in range(min(most, i + 1) - 1)] if h > 0 else []
        x = _step(x, x0s, levels, i, h, ratios, config, stochastic)
        if stochastic and levels.sigma[i + 1] > 0:
            fresh = levels.sigma[i + 1] * math.sqrt(-math.expm1(-2 * h))
            x = x + np.float32(fresh) * noise(x.shape)
        yield x


class _Weights(NamedTuple):
    """Integrals of 1, of t / h and of t^2 / (2 h^2) over a step, against the decay of what is known of x_0."""

    whole: float
    linear: float
    square: float


def _weigh(h: float, stochastic: bool) -> _Weights:
    """Of the ODE with e^-h, of the SDE with e^-2h."""
    u = 2 * h if stochastic else h
    whole = -math.expm1(-u)
    if math.isinf(u) or u == 0:
        return _Weights(whole, 0.0, 0.0)
    return _Weights(whole, 1 - whole / u, 0.5 - (u - whole) / u**2)


def _step(
    x: Array,
    x0s: Sequence[Array],
    levels: Levels,
    i: int,
    h: float,
    ratios: Sequence[float],
    config: SamplerConfig,
    stochastic: bool,
) -> Array:
    decay = levels.sigma[i + 1] / levels.sigma[i] * (math.exp(-h) if stochastic else 1.0)
    alpha = levels.alpha[i + 1]
    weights = _weigh(h, stochastic)
    base = np.float32(decay) * x
    if not ratios:
        return base + np.float32(alpha * weights.whole) * x0s[0]
    slope = np.float32(1 / ratios[0]) * (x0s[0] - x0s[1])  # zero after a step from no signal, whose h is infinite
    if len(ratios) == 1:
        if config.solver_type != "heun":
            half = 1 / (2 * ratios[0])
            # d0 + d1 / 2 in one sum, as the paper's algorithm 2 has it.
            d = np.float32(1 + half) * x0s[0] - np.float32(half) * x0s[1]
            return base + np.float32(alpha * weights.whole) * d
        return base + np.float32(alpha * weights.whole) * x0s[0] + np.float32(alpha * weights.linear) * slope
    r0, r1 = ratios
    before = np.float32(1 / r1) * (x0s[1] - x0s[2])
    share = 0.0 if math.isinf(r0) else r0 / (r0 + r1)
    d1 = slope + np.float32(share) * (slope - before)
    d2 = np.float32(1 / (r0 + r1)) * (slope - before)
    # diffusers' SDE has 1/2 with the other sign here (seen in 0.42), which it must have for its numbers to come out.
    square = weights.square - (1.0 if stochastic and config.follows == "diffusers" else 0.0)
    return (
        base
        + np.float32(alpha * weights.whole) * x0s[0]
        + np.float32(alpha * weights.linear) * d1
        + np.float32(alpha * square) * d2
    )


dpmpp_1m = partial(_dpmpp, order=1, stochastic=False)
dpmpp_2m = partial(_dpmpp, order=2, stochastic=False)
dpmpp_3m = partial(_dpmpp, order=3, stochastic=False)
dpmpp_1m_sde = partial(_dpmpp, order=1, stochastic=True)
dpmpp_2m_sde = partial(_dpmpp, order=2, stochastic=True)
dpmpp_3m_sde = partial(_dpmpp, order=3, stochastic=True)
