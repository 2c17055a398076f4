"""UniPC: a unified predictor and corrector of any order (Zhao et al. 2023).

| code | paper |
| --- | --- |
| lam, h | lambda_t = log(alpha_t / sigma_t), its difference over a step |
| r, D | r_m, D_m: where earlier outputs lie, in steps, and by how much they differ |
| B | B(h): h itself (bh1) or e^h - 1 (bh2); h is taken negative where x_0 is extrapolated |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.samplers.prediction import Denoise, Noise
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels

__all__ = ["unipc"]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step from level `start` to the next, with the outputs of the levels up to it, the newest first."""

    levels: Levels
    lam: Array
    config: SamplerConfig
    start: int
    x: Array
    x0: Array
    outputs: tuple[Array, ...]


def unipc(denoise: Denoise, x: Array, levels: Levels, _noise: Noise, config: SamplerConfig) -> Iterator[Array]:
    """UniPC (Zhao et al. 2023, algorithms 1 to 4): predicted, and corrected once the model has seen the prediction.

    The output that is evaluated for the next step corrects the last one, so there is one evaluation per step. Steps
    whose h is infinite, from no signal or to clean data, are of first order and not corrected.
    """
    with np.errstate(divide="ignore"):
        lam = np.log(levels.alpha) - np.log(levels.sigma)
    count, order = len(levels.timesteps), 0
    step: _Step | None = None
    for i in range(count):
        x0, eps, _ = denoise(x, i)
        output = x0 if config.predict_x0 else eps
        corrects = levels.skipped + i - 1 not in config.disable_corrector
        if step is not None and corrects and math.isfinite(lam[i] - lam[i - 1]):
            x = _advance(step, order, seen=output)
        before = () if step is None else step.outputs[: config.solver_order - 1]
        step = _Step(levels=levels, lam=lam, config=config, start=i, x=x, x0=x0, outputs=(output, *before))
        order = min(config.solver_order, count - i) if config.lower_order_final else config.solver_order
        known = sum(math.isfinite(lam[i - k]) for k in range(len(step.outputs)))
        order = min(order, known) if math.isfinite(lam[i + 1] - lam[i]) else 1
        x = _advance(step, order)
        yield x


def _advance(step: _Step, order: int, seen: Array | None = None) -> Array:
    """Take a step; with `seen`, the output at its end, correct it (Zhao 2023, eq. 3 and 9)."""
    levels, lam, i, config = step.levels, step.lam, step.start, step.config
    alpha, sigma, alpha_next, sigma_next = *levels.before(i), *levels.after(i)
    newest, h = step.outputs[0], float(lam[i + 1] - lam[i])
    if config.predict_x0:
        signed, scale = -h, alpha_next
        base = np.float32(sigma_next / sigma) * step.x - np.float32(alpha_next * math.expm1(-h)) * newest
    else:
        signed, scale = h, sigma_next
        if alpha > 0:
            # sigma' (e^h - 1) = sigma alpha' / alpha - sigma', which holds for an infinite h, too.
            change = (alpha**2 - alpha_next**2) / (alpha * (alpha * sigma_next + alpha_next * sigma))
            base = np.float32(alpha_next / alpha) * step.x + np.float32(change) * newest
        else:
            base = np.float32(alpha_next) * step.x0 + np.float32(sigma_next) * newest
    if math.isinf(h) or (order == 1 and seen is None):
        return base
    r = [float(lam[i - k] - lam[i]) / h for k in range(1, order)]
    differences = [np.float32(1 / ratio) * (older - newest) for ratio, older in zip(r, step.outputs[1:], strict=False)]
    bh = signed if config.solver_type == "bh1" else math.expm1(signed)
    if seen is not None:
        differences.append(seen - newest)
        r.append(1.0)
    # One weight alone, of the predictor of second order and the corrector of first, is 1/2 for any B(h) (section 3.3).
    weights = [0.5] if len(r) == 1 else _solve(r, signed, bh)
    for weight, difference in zip(weights, differences, strict=True):
        base = base - np.float32(scale * bh * weight) * difference
    return base


def _solve(r: Sequence[float], h: float, bh: float) -> list[float]:
    """Weights that make the order hold: R(h) a B(h) = phi(h) (Zhao 2023, eq. 5)."""
    rows, right = [], []
    factorial = 1.0
    phi = math.expm1(h) / h - 1  # h phi_2(h), and from there by phi_{k+1}(h) = (phi_k(h) - 1/k!) / h
    for k in range(1, len(r) + 1):
        rows.append([ratio ** (k - 1) for ratio in r])
        right.append(phi * factorial / bh)
        factorial *= k + 1
        phi = phi / h - 1 / factorial
    return [float(weight) for weight in np.linalg.solve(np.array(rows), np.array(right))]
