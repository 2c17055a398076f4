"""Which levels a sampler visits, in the conventions of the papers and of diffusers.

The papers' levels are the same for all samplers (`make_levels`). diffusers' classes differ in which steps they visit,
in what they take for a step's predecessor, in where the last step ends, and in how large the first noise is.

| code | paper |
| --- | --- |
| s | sigma of Karras et al. 2022: sigma / alpha |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.samplers.sampler_config import SamplerConfig
from aigc_runtime.generation.schedules import Levels, ScheduleConfig, alphas_cumprod, make_levels, timesteps

__all__ = ["MakeLevels", "distilled", "fractional", "inner", "strided", "visited"]

MakeLevels = Callable[[ScheduleConfig, SamplerConfig, int], Levels]
"""Called as levels(schedule, config, steps).

Raises:
    InputError: the sampler cannot visit so many.
"""

RHO = 7.0
"""Of Karras' levels: their paper's choice (section 3)."""

MIN_ALPHA_BAR = 2.0**-24
"""Put by diffusers in place of an alpha-bar of 0 where a sampler divides by alpha."""


def visited(schedule: ScheduleConfig, _config: SamplerConfig, steps: int) -> Levels:
    """The steps of the spacing, each one's predecessor the next visited one, and clean data at the end."""
    return make_levels(schedule, steps)


def strided(schedule: ScheduleConfig, config: SamplerConfig, steps: int) -> Levels:
    """The steps of the spacing; diffusers' predecessor of t is t - T // steps, visited or not."""
    levels = make_levels(schedule, steps)
    if config.follows == "papers":
        return levels
    a = alphas_cumprod(schedule)
    before = levels.timesteps - schedule.num_train_timesteps // steps
    goal = np.where(before >= 0, a[np.maximum(before, 0)], 1.0 if config.set_alpha_to_one else a[0])
    return replace(levels, goal=np.sqrt(goal))


def inner(schedule: ScheduleConfig, config: SamplerConfig, steps: int) -> Levels:
    """Diffusers' steps of the solvers in log-SNR: one more than asked for are laid out, and the cleanest is left out.

    Raises:
        InputError: more than there are, or one beyond the last.
    """
    if config.follows == "papers":
        return make_levels(schedule, steps)
    timesteps(schedule, min(steps, schedule.num_train_timesteps))  # judges the number itself
    a, total = _with_some_signal(schedule), schedule.num_train_timesteps
    s = np.sqrt((1 - a) / a)
    last = total
    if config.lambda_min_clipped is not None:
        last -= int(np.searchsorted(-np.log(s)[::-1], config.lambda_min_clipped))
    end = s[0] if config.final_sigmas_type == "sigma_min" else 0.0
    if config.use_karras_sigmas:
        found = _karras(s[-1], s[0], steps)
        t = _step_of(found, s)
        # diffusers rounds the steps, but with the cosine schedule it cuts them: their last ones are far apart in sigma.
        t = np.floor(t + 1e-4) if schedule.beta_schedule == "squaredcos_cap_v2" else np.round(t)
        return _of_sigmas(schedule, t, found, end)
    if schedule.timestep_spacing == "linspace":
        t = np.round(np.linspace(0, last - 1, steps + 1))[:0:-1]
    elif schedule.timestep_spacing == "leading":
        t = (np.arange(steps + 1) * (last // (steps + 1)))[:0:-1] + schedule.steps_offset
    else:
        t = np.round(np.arange(last, 0, -total / steps))[:steps] - 1
    if last < 1 or (np.diff(t) >= 0).any() or t[0] >= total:
        raise InputError(
            f"steps is {steps}: this sampler lays out {steps + 1} of {last} training steps",
            hint="use fewer steps",
        )
    return _of_sigmas(schedule, t, s[t.astype(np.int64)], end)


def fractional(schedule: ScheduleConfig, config: SamplerConfig, steps: int) -> Levels:
    """Diffusers' levels of the samplers in sigma: between training steps where the spacing falls there."""
    if config.follows == "papers":
        return make_levels(schedule, steps)
    a, total = _with_some_signal(schedule), schedule.num_train_timesteps
    s = np.sqrt((1 - a) / a)
    t = timesteps(schedule, steps).astype(np.float64)
    if schedule.timestep_spacing == "linspace":
        t = np.linspace(0, total - 1, steps)[::-1]
    found, end = np.interp(t, np.arange(total), s), s[0] if config.final_sigmas_type == "sigma_min" else 0.0
    first, cleanest = found[0], found[-1]
    if config.interpolation_type == "log_linear":
        whole = np.exp(np.linspace(np.log(s[-1]), np.log(s[0]), steps + 1))
        first, cleanest, found = whole[0], whole[-1], whole[:-1]
        if not config.use_karras_sigmas:
            end = whole[-1]
    if config.use_karras_sigmas:
        found = _karras(first, cleanest, steps)
        t = _step_of(found, s)
    if config.timestep_type == "continuous" and schedule.prediction_type == "v_prediction":
        t = 0.25 * np.log(found)
    levels = _of_sigmas(schedule, t, found, end)
    first_noise = 1.0 if schedule.timestep_spacing == "leading" else float(levels.sigma[0])
    return replace(levels, first_noise=first_noise, last_scale=float(np.sqrt(1 + end**2)))


def distilled(schedule: ScheduleConfig, config: SamplerConfig, steps: int) -> Levels:
    """The steps of a latent consistency model (Luo et al. 2023, section 4.3): some of those that it was distilled on.

    Raises:
        InputError: more steps than those.
    """
    timesteps(replace(schedule, timestep_spacing="trailing"), steps)  # judges the number itself
    total, most = schedule.num_train_timesteps, min(config.original_inference_steps, schedule.num_train_timesteps)
    if steps > most:
        raise InputError(f"steps is {steps}", hint=f"this model was distilled on {most} steps: use at most so many")
    trained = (np.arange(1, most + 1) * (total // most) - 1)[::-1]
    t = trained[np.floor(np.linspace(0, most, steps, endpoint=False)).astype(np.int64)]
    a = np.append(alphas_cumprod(schedule)[t], 1.0)
    return Levels(timesteps=t, alpha=np.sqrt(a), sigma=np.sqrt(1 - a))


def _with_some_signal(schedule: ScheduleConfig) -> Array:
    """alpha-bar, with a little signal left where there is none."""
    least = MIN_ALPHA_BAR if schedule.rescale_betas_zero_snr else float(np.finfo(np.float64).tiny)
    return np.maximum(alphas_cumprod(schedule), least)


def _karras(largest: float, smallest: float, steps: int) -> Array:
    """S of `steps` levels, evenly spaced in s^(1 / rho) (Karras 2022, eq. 5)."""
    ramp = np.linspace(0, 1, steps)
    found: Array = (largest ** (1 / RHO) + ramp * (smallest ** (1 / RHO) - largest ** (1 / RHO))) ** RHO
    return found


def _step_of(wanted: Array, s: Array) -> Array:
    """The training steps of levels, between two of them by the logarithm of s."""
    return np.interp(np.log(wanted), np.log(s), np.arange(len(s), dtype=np.float64))


def _of_sigmas(schedule: ScheduleConfig, t: Array, s: Array, end: float) -> Levels:
    """Levels of given s = sigma / alpha, where alpha^2 + sigma^2 = 1."""
    s = np.append(s, end)
    alpha = 1 / np.sqrt(1 + s**2)
    return Levels(
        timesteps=t,
        alpha=alpha,
        sigma=s * alpha,
        variance_type=schedule.variance_type,
        prediction_type=schedule.prediction_type,
    )
