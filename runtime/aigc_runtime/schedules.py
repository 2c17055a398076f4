"""Noise schedules: how much signal and noise a sample holds at each training step, and which steps a sampler visits.

| code | paper |
| --- | --- |
| beta, alphas_cumprod | beta_t, alpha-bar_t (Ho et al. 2020) |
| alpha, sigma | sqrt(alpha-bar), sqrt(1 - alpha-bar): x_t = alpha x_0 + sigma epsilon (Lu et al. 2022) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.tensors import Array

__all__ = ["Levels", "ScheduleConfig", "alphas_cumprod", "make_levels", "timesteps"]

MAX_BETA = 0.999
"""Cap of the cosine schedule (Nichol & Dhariwal 2021, section 3.2)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A noise schedule, with diffusers' field names.

    Attributes:
        num_train_timesteps: T.
        beta_schedule: `linear` (Ho 2020, section 4), `scaled_linear` (linear in sqrt(beta), Rombach 2022) or
            `squaredcos_cap_v2` (Nichol & Dhariwal 2021, eq. 17).
        beta_start: of the linear ones.
        beta_end: of the linear ones.
        prediction_type: what the model predicts.
        timestep_spacing: which steps a sampler visits (Lin et al. 2023, table 2).
        steps_offset: added to the steps of `leading`.
        rescale_betas_zero_snr: no signal at all at the last step (Lin 2023, algorithm 1).
        clip_sample: clip the predicted x_0.
        clip_sample_range: to [-range, range].
    """

    num_train_timesteps: int = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("beta_schedule", self.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2")),
            ("prediction_type", self.prediction_type, ("epsilon", "v_prediction")),
            ("timestep_spacing", self.timestep_spacing, ("leading", "linspace", "trailing")),
        ):
            if value not in valid:
                raise ConfigError(f"ScheduleConfig.{field} is {value!r}", hint=f"valid: {', '.join(valid)}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"ScheduleConfig: beta_start={self.beta_start}, beta_end={self.beta_end}",
                hint="need 0 < beta_start <= beta_end < 1",
            )
        if self.num_train_timesteps < 1 or not self.clip_sample_range > 0 or self.steps_offset < 0:
            raise ConfigError(
                f"ScheduleConfig: num_train_timesteps={self.num_train_timesteps}, "
                f"clip_sample_range={self.clip_sample_range}, steps_offset={self.steps_offset}",
                hint="need at least one step, a positive range and no negative offset",
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "ScheduleConfig: rescale_betas_zero_snr with prediction_type 'epsilon'",
                hint="noise alone says nothing about x_0 where there is no signal: train with 'v_prediction'",
            )


def alphas_cumprod(config: ScheduleConfig) -> Array:
    """alpha-bar_t for t = 0 .. T-1, float64 [T]."""
    n = config.num_train_timesteps
    if config.beta_schedule == "linear":
        beta = np.linspace(config.beta_start, config.beta_end, n)
    elif config.beta_schedule == "scaled_linear":
        beta = np.linspace(math.sqrt(config.beta_start), math.sqrt(config.beta_end), n) ** 2
    else:
        edge = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = np.minimum(1 - edge[1:] / edge[:-1], MAX_BETA)
    a: Array = np.cumprod(1 - beta)
    return _rescale_zero_snr(a) if config.rescale_betas_zero_snr else a


def _rescale_zero_snr(a: Array) -> Array:
    """Shift and scale sqrt(alpha-bar) so that the last is 0 and the first stays (Lin 2023, algorithm 1)."""
    root = np.sqrt(a)
    out: Array = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return out


def timesteps(config: ScheduleConfig, steps: int) -> Array:
    """The training steps that a sampler visits, from noisy to clean: int64 [steps] (Lin 2023, table 2).

    Raises:
        InputError: `steps` is not an integer from 1 to T.
    """
    total = config.num_train_timesteps
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= total:
        raise InputError(f"steps is {steps!r}", hint=f"must be an integer from 1 to {total}")
    t: Array
    if config.timestep_spacing == "linspace":
        t = np.round(np.linspace(0, total - 1, steps))[::-1]
    elif config.timestep_spacing == "leading":
        t = (np.arange(steps) * (total // steps))[::-1] + config.steps_offset
    else:
        t = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    out: Array = np.clip(t, 0, total - 1).astype(np.int64)
    return out


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The noise levels of one sampling run, N steps.

    Attributes:
        timesteps: int64 [N], descending.
        alpha: float64 [N + 1], signal: sqrt(alpha-bar) at each step, and 1 at the end.
        sigma: float64 [N + 1], noise: sqrt(1 - alpha-bar), and 0 at the end.
    """

    timesteps: Array
    alpha: Array
    sigma: Array


def make_levels(config: ScheduleConfig, steps: int) -> Levels:
    """The noise levels that a sampler visits in `steps` steps.

    The step after the last visited one is clean data (alpha-bar = 1), and a step's predecessor is the next visited
    one. (diffusers' DDIM takes t - T // steps instead, which differs where T is not a multiple of the steps.)
    """
    t = timesteps(config, steps)
    a = np.append(alphas_cumprod(config)[t], 1.0)
    return Levels(timesteps=t, alpha=np.sqrt(a), sigma=np.sqrt(1 - a))
