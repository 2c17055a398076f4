"""Pseudo numerical methods: Runge-Kutta and linear multistep over DDIM's transfer (Liu et al. 2022)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.samplers.prediction import Denoise, Noise, Prediction
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, alphas_cumprod, timesteps

__all__ = ["late_pndm_levels", "pndm", "pndm_levels"]

RUNGE_KUTTA = 3
"""Steps at the start of four evaluations each."""

CLEAN = -1
"""Stands for the level after the last step."""

_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the slopes of evenly spaced steps, the newest first (Liu 2022, eq. 12)."""


def pndm_levels(schedule: ScheduleConfig, config: SamplerConfig, steps: int) -> Levels:
    """The evaluations of PNDM: which step the model is given, from which the sample is taken, and to which.

    Runge-Kutta looks at both ends of a step and twice in its middle. Without it the first step is done twice: by
    Euler's method, and by the mean of the slopes at its ends. diffusers' predecessor of t is t - T // steps, visited
    or not.

    Raises:
        InputError: fewer steps than Runge-Kutta starts with, and one.
    """
    t = [int(step) for step in timesteps(schedule, steps)]
    theirs, stride = config.follows == "diffusers", schedule.num_train_timesteps // steps
    moves: list[tuple[int, int, int]] = []  # (evaluated at, from, to)
    done = 0
    if not config.skip_prk_steps:
        if steps <= RUNGE_KUTTA:
            raise InputError(
                f"steps is {steps}, and {RUNGE_KUTTA} are Runge-Kutta's", hint=f"use at least {RUNGE_KUTTA + 1}"
            )
        for here, there in itertools.pairwise(t[: RUNGE_KUTTA + 1]):
            middle = there + stride // 2 if theirs else (here + there + 1) // 2
            first = here - stride // 2 if theirs else middle
            moves += [(here, here, first), (middle, here, middle), (middle, here, there), (there, here, there)]
        done = RUNGE_KUTTA
    for i in range(done, steps):
        last = i + 1 == steps
        goal = t[i] - stride if theirs else CLEAN if last else t[i + 1]
        moves.append((t[i], t[i], goal))
        if i == 0 and not last:
            moves.append((t[1], t[1] + stride if theirs else t[0], t[1]))
    return _levels_of(moves, schedule, config, steps)


def late_pndm_levels(schedule: ScheduleConfig, config: SamplerConfig, steps: int, skipped: int) -> Levels:
    """The evaluations of PNDM that starts behind `skipped` steps, from a sample of that level: there is no history.

    The first step that is left is done twice, as the first step of all is where there is no Runge-Kutta; and there is
    none, which would start at the noisiest step. diffusers counts evaluations in place of
    steps: it begins one step earlier, and its later evaluations are told the step behind the sample's.

    Raises:
        InputError: as `pndm_levels` does.
    """
    t = [int(step) for step in timesteps(schedule, steps)]
    stride = schedule.num_train_timesteps // steps
    if config.follows == "diffusers" and config.skip_prk_steps:
        seen = [t[0], *t[1:2], *t[1:]][skipped:]
        moves = [(seen[0], seen[0], seen[0] - stride), (seen[1], seen[1] + stride, seen[1])]
        moves += [(at, at, at - stride) for at in seen[2:]]
    else:
        left = t[skipped:]
        goals = [*left[1:], CLEAN]
        moves = list(zip(left, left, goals, strict=True))
        if len(left) > 1:
            moves.insert(1, (left[1], left[0], left[1]))
    return replace(_levels_of(moves, schedule, config, steps - skipped), skipped=skipped)


def _levels_of(
    moves: list[tuple[int, int, int]], schedule: ScheduleConfig, config: SamplerConfig, steps: int
) -> Levels:
    """Levels of moves (evaluated at, from, to)."""
    a = alphas_cumprod(schedule)
    end = a[0] if config.follows == "diffusers" and not config.set_alpha_to_one else 1.0
    at, origin, goal_of = (np.array(column) for column in zip(*moves, strict=True))
    goals = np.where(goal_of >= 0, a[np.maximum(goal_of, 0)], end)
    visited = np.append(a[at], end)
    return Levels(
        timesteps=at,
        alpha=np.sqrt(visited),
        sigma=np.sqrt(1 - visited),
        prediction_type=schedule.prediction_type,
        goal=np.sqrt(goals),
        origin=np.sqrt(a[origin]),
        count=steps,
    )


def pndm(denoise: Denoise, x: Array, levels: Levels, _noise: Noise, config: SamplerConfig) -> Iterator[Array]:
    """Pseudo linear multistep of fourth order (Liu et al. 2022, algorithm 2), one evaluation per step after the start.

    What is extrapolated is the noise, and DDIM's transfer takes the sample along it (eq. 11). A step from no signal is
    DDIM's. diffusers extrapolates the velocity of a model that predicts it, which is less exact.
    """
    velocity = config.follows == "diffusers" and levels.prediction_type == "v_prediction"
    slopes: list[Array] = []
    i = 0
    if not config.skip_prk_steps and not levels.skipped:
        for _ in range(RUNGE_KUTTA):
            start: Array = x
            total: Array = np.zeros_like(x)
            for k, weight in enumerate((1 / 6, 1 / 3, 1 / 3, 1 / 6)):
                prediction = denoise(x, i + k)
                slope = _slope(prediction, levels, i + k, velocity)
                total += np.float32(weight) * slope
                if k == 0:
                    slopes = [slope, *slopes[:3]]
                x = _transfer(start, total if k == 3 else slope, prediction, levels, i + k, velocity)
            i += 4
            yield x
    while i < len(levels.timesteps):
        prediction = denoise(x, i)
        slopes = [_slope(prediction, levels, i, velocity), *slopes[:3]]
        weights = _ADAMS_BASHFORTH[len(slopes) - 1]
        start = x
        x = _transfer(start, _sum(weights, slopes), prediction, levels, i, velocity)
        i += 1
        if len(slopes) == 1 and i < len(levels.timesteps):
            prediction = denoise(x, i)
            mean = _sum((0.5, 0.5), [_slope(prediction, levels, i, velocity), slopes[0]])
            x = _transfer(start, mean, prediction, levels, i, velocity)
            i += 1
        yield x


def _slope(prediction: Prediction, levels: Levels, i: int, velocity: bool) -> Array:
    if not velocity:
        return prediction.eps
    return np.float32(levels.alpha[i]) * prediction.eps - np.float32(levels.sigma[i]) * prediction.x0


def _sum(weights: tuple[float, ...], slopes: list[Array]) -> Array:
    total: Array = np.float32(weights[0]) * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total += np.float32(weight) * slope
    return total


def _transfer(x: Array, slope: Array, prediction: Prediction, levels: Levels, i: int, velocity: bool) -> Array:
    """DDIM's step from the i-th evaluation's origin to its goal (Liu 2022, eq. 11)."""
    alpha, sigma, alpha_next, sigma_next = *levels.before(i), *levels.after(i)
    if alpha == 0:
        return np.float32(alpha_next) * prediction.x0 + np.float32(sigma_next) * prediction.eps
    if velocity:  # x_0 and the noise, at the origin, without a division by alpha
        x0 = np.float32(alpha) * x - np.float32(sigma) * slope
        return np.float32(alpha_next) * x0 + np.float32(sigma_next) * (
            np.float32(alpha) * slope + np.float32(sigma) * x
        )
    # sigma' - sigma alpha' / alpha, without the difference of two near numbers.
    change = (alpha**2 - alpha_next**2) / (alpha * (alpha * sigma_next + alpha_next * sigma))
    return np.asarray(np.float32(alpha_next / alpha) * x + np.float32(change) * slope)
