"""Noise schedules: how much signal and noise a sample holds at each training step, and which steps a sampler visits.

| code | paper |
| --- | --- |
| beta, alphas_cumprod | beta_t, alpha-bar_t (Ho et al. 2020) |
| alpha, sigma | sqrt(alpha-bar), sqrt(1 - alpha-bar): x_t = alpha x_0 + sigma epsilon (Lu et al. 2022) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.io.printable import shown

__all__ = ["Levels", "ScheduleConfig", "alphas_cumprod", "make_levels", "timesteps"]

MAX_BETA = 0.999
"""Cap of the cosine schedule (Nichol & Dhariwal 2021, section 3.2)."""

MAX_TRAIN_TIMESTEPS = 1_000_000
"""More is a mistake, or a manifest that wants to fill the memory."""

MAX_SAMPLE_VALUE = 1e6
"""Far beyond any picture or latent; a larger bound is a mistake."""

MIN_EPSILON_ALPHA = float(np.finfo(np.float32).tiny)
"""Least signal sqrt(alpha-bar) from which x_0 can be told by its noise: x_0 = (x - sigma eps) / alpha in float32."""


PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A noise schedule, with diffusers' field names and their meaning there.

    Attributes:
        num_train_timesteps: T, at most 1,000,000.
        beta_schedule: `linear` (Ho 2020, section 4), `scaled_linear` (linear in sqrt(beta), Rombach 2022) or
            `squaredcos_cap_v2` (Nichol & Dhariwal 2021, eq. 17).
        beta_start: of the linear ones.
        beta_end: of the linear ones.
        trained_betas: one beta for every step, in place of those that `beta_schedule` gives.
        prediction_type: what the model predicts: the noise, x_0 (`sample`) or v.
        timestep_spacing: which steps a sampler visits (Lin et al. 2023, table 2).
        steps_offset: added to the steps of `leading`.
        rescale_betas_zero_snr: no signal at all at the last step (Lin 2023, algorithm 1).
        clip_sample: clip the predicted x_0.
        clip_sample_range: to [-range, range].
        variance_type: of the noise that DDPM adds. `fixed_small` is the posterior's own (beta-tilde), of which
            `fixed_small_log` is another way to compute; `fixed_large` is beta. With `learned_range` the model gives
            twice the channels, the second half being where the variance lies between the two (Nichol & Dhariwal 2021,
            eq. 15); with `learned` that half is the variance itself.
        thresholding: scale each image's predicted x_0 into [-1, 1] by a quantile of its own magnitudes, in place of
            clipping (Saharia et al. 2022, section 2.3).
        dynamic_thresholding_ratio: which quantile.
        sample_max_value: the largest scale.

    Raises:
        ConfigError: a value of the wrong type or outside its range, or a schedule that cannot be sampled from: one
            with a step that adds no noise, or one that ends without signal while the model predicts epsilon.
    """

    num_train_timesteps: int = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"] = "fixed_small"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    trained_betas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field, value, valid in (
            ("beta_schedule", self.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2")),
            ("prediction_type", self.prediction_type, PREDICTIONS),
            ("timestep_spacing", self.timestep_spacing, ("leading", "linspace", "trailing")),
            ("rescale_betas_zero_snr", self.rescale_betas_zero_snr, (True, False)),
            ("clip_sample", self.clip_sample, (True, False)),
            ("variance_type", self.variance_type, VARIANCES),
            ("thresholding", self.thresholding, (True, False)),
        ):
            if value not in valid or (valid == (True, False) and not isinstance(value, bool)):
                raise ConfigError(
                    f"ScheduleConfig.{field} is {shown(value)}", hint=f"valid: {', '.join(map(str, valid))}"
                )
        for field, number, low, high in (
            ("num_train_timesteps", self.num_train_timesteps, 1, MAX_TRAIN_TIMESTEPS),
            ("steps_offset", self.steps_offset, 0, MAX_TRAIN_TIMESTEPS),
        ):
            if type(number) is not int or not low <= number <= high:
                raise ConfigError(
                    f"ScheduleConfig.{field} is {shown(number)}", hint=f"must be an integer from {low} to {high}"
                )
        if self.trained_betas is not None:
            _check_betas(self.trained_betas, self.num_train_timesteps)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"ScheduleConfig: beta_start={self.beta_start}, beta_end={self.beta_end}",
                hint="need 0 < beta_start <= beta_end < 1",
            )
        for field, real, most, allowed in (
            ("clip_sample_range", self.clip_sample_range, MAX_SAMPLE_VALUE, "above 0 and at most 1e6"),
            ("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio, 1.0, "above 0 and at most 1"),
        ):
            if isinstance(real, bool) or not isinstance(real, (int, float)) or not 0 < real <= most:
                raise ConfigError(f"ScheduleConfig.{field} is {shown(real)}", hint=f"must be {allowed}")
        scale = self.sample_max_value
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 <= scale <= MAX_SAMPLE_VALUE:
            raise ConfigError(f"ScheduleConfig.sample_max_value is {shown(scale)}", hint="must be from 1 to 1e6")
        self._check_signal()

    @property
    def learns_variance(self) -> bool:
        """Whether the model's output holds a second half of channels, about the variance."""
        return self.variance_type in ("learned", "learned_range")

    @property
    def sample_bound(self) -> float | None:
        """Largest magnitude of the predicted x_0; None where nothing bounds it, as in latents.

        A sampler whose last level is clean data ends with the predicted x_0 itself: it bounds the finished sample.
        """
        if self.thresholding:
            return 1.0
        return self.clip_sample_range if self.clip_sample else None

    def _check_signal(self) -> None:
        if self.timestep_spacing == "leading" and self.steps_offset >= self.num_train_timesteps:
            raise ConfigError(
                f"ScheduleConfig.steps_offset is {self.steps_offset}",
                hint=f"must be below num_train_timesteps = {self.num_train_timesteps}, or no step is left",
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "ScheduleConfig: rescale_betas_zero_snr with prediction_type 'epsilon'",
                hint="noise alone says nothing about x_0 where there is no signal: train with 'v_prediction', 'sample'",
            )
        if self.rescale_betas_zero_snr and self.num_train_timesteps == 1:
            raise ConfigError(
                "ScheduleConfig: rescale_betas_zero_snr with one training step",
                hint="its first step keeps its signal and its last loses it: they cannot be the same step",
            )
        a = alphas_cumprod(self)
        constant = np.flatnonzero(np.diff(a, prepend=1.0) >= 0)
        if constant.size:
            t = constant[0]
            raise ConfigError(
                f"ScheduleConfig: step {t} adds no noise (alpha-bar is {a[t]:.3g} before and after)",
                hint="use larger betas where alpha-bar is 1, smaller ones or fewer steps where it is 0",
            )
        least = math.sqrt(a[-1])
        if self.prediction_type == "epsilon" and least < MIN_EPSILON_ALPHA:
            raise ConfigError(
                f"ScheduleConfig: hardly any signal is left at the last step (alpha = {least:.3g}), "
                "and the model predicts epsilon",
                hint="use fewer steps or smaller betas, or train with 'v_prediction' or 'sample'",
            )


def _check_betas(betas: tuple[float, ...], total: int) -> None:
    if len(betas) != total:
        raise ConfigError(
            f"ScheduleConfig.trained_betas has {len(betas):,} numbers, num_train_timesteps is {total:,}",
            hint="one for every step",
        )
    for t, beta in enumerate(betas):
        if type(beta) not in (int, float) or not 0 < beta < 1:
            raise ConfigError(f"ScheduleConfig.trained_betas[{t}] is {shown(beta)}", hint="must be above 0 and below 1")


def alphas_cumprod(config: ScheduleConfig) -> Array:
    """alpha-bar_t for t = 0 .. T-1, float64 [T]."""
    n = config.num_train_timesteps
    if config.trained_betas is not None:
        beta = np.array(config.trained_betas, dtype=np.float64)
    elif config.beta_schedule == "linear":
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

    `leading` starts below the last training step and a single step of `linspace` is step 0, as in diffusers; only
    `trailing` always starts from pure noise, which is what Lin et al. recommend.

    >>> timesteps(ScheduleConfig(timestep_spacing="trailing"), 4).tolist()
    [999, 749, 499, 249]

    Raises:
        InputError: `steps` is not an integer from 1 to T, or `steps_offset` moves a step beyond T - 1.
    """
    total = config.num_train_timesteps
    count = as_integer(steps)
    if count is None or not 1 <= count <= total:
        raise InputError(f"steps is {shown(steps)}", hint=f"must be an integer from 1 to {total}")
    steps = count
    t: Array
    if config.timestep_spacing == "linspace":
        t = np.round(np.linspace(0, total - 1, steps))[::-1]
    elif config.timestep_spacing == "leading":
        t = (np.arange(steps) * (total // steps))[::-1] + config.steps_offset
        if t[0] >= total:
            raise InputError(
                f"steps is {steps}: with steps_offset {config.steps_offset} the first would be step {t[0]} of {total}",
                hint=f"use fewer steps, so that (steps - 1) * ({total} // steps) + steps_offset is below {total}",
            )
    else:
        # arange may give one more than `steps` where total / steps is rounded down.
        t = np.round(np.arange(total, 0, -total / steps))[:steps] - 1
    out: Array = t.astype(np.int64)
    return out


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The noise levels of one sampling run: N evaluations of the model.

    Attributes:
        timesteps: [N], the step that the model is given: int64, or float64 where a sampler looks between steps.
        alpha: float64 [N + 1], signal: sqrt(alpha-bar) at each evaluation, and at the end, where 1 is clean data.
        sigma: float64 [N + 1], noise: sqrt(1 - alpha-bar).
        variance_type: of the noise that DDPM adds, see `ScheduleConfig`.
        prediction_type: of the model, see `ScheduleConfig`.
        goal: float64 [N], alpha of the level that the sample is taken to after each evaluation; None: the next one's.
        origin: float64 [N], alpha of the level that it is taken from; None: that of the evaluation.
        count: steps of the run, each of which gives a sample; None: one for each evaluation.
        first_noise: deviation of x_T.
        last_scale: the result is the last sample times this.
        skipped: steps of a longer run that were left out before these: where a picture takes the place of noise.
    """

    timesteps: Array
    alpha: Array
    sigma: Array
    variance_type: str = "fixed_small"
    prediction_type: str = "epsilon"
    goal: Array | None = None
    origin: Array | None = None
    count: int | None = None
    first_noise: float = 1.0
    last_scale: float = 1.0
    skipped: int = 0

    def without(self, skipped: int) -> Levels:
        """The levels behind the first `skipped` steps, of a run with one evaluation for each; the next noise is 1."""
        return replace(
            self,
            timesteps=self.timesteps[skipped:],
            alpha=self.alpha[skipped:],
            sigma=self.sigma[skipped:],
            goal=None if self.goal is None else self.goal[skipped:],
            origin=None if self.origin is None else self.origin[skipped:],
            first_noise=1.0,
            skipped=self.skipped + skipped,
        )

    @property
    def steps(self) -> int:
        """Number of samples that a run gives."""
        return len(self.timesteps) if self.count is None else self.count

    def after(self, i: int) -> tuple[float, float]:
        """(alpha, sigma) of the level that the sample is taken to after the i-th evaluation."""
        if self.goal is None:
            return float(self.alpha[i + 1]), float(self.sigma[i + 1])
        return float(self.goal[i]), math.sqrt(max(0.0, 1 - float(self.goal[i]) ** 2))

    def before(self, i: int) -> tuple[float, float]:
        """(alpha, sigma) of the level that it is taken from."""
        if self.origin is None:
            return float(self.alpha[i]), float(self.sigma[i])
        return float(self.origin[i]), math.sqrt(max(0.0, 1 - float(self.origin[i]) ** 2))


def make_levels(config: ScheduleConfig, steps: int) -> Levels:
    """The noise levels that a sampler visits in `steps` steps.

    The step after the last visited one is clean data (alpha-bar = 1), and a step's predecessor is the next visited
    one. (diffusers' DDIM takes t - T // steps instead, which differs where T is not a multiple of the steps.)
    """
    t = timesteps(config, steps)
    a = np.append(alphas_cumprod(config)[t], 1.0)
    return Levels(
        timesteps=t,
        alpha=np.sqrt(a),
        sigma=np.sqrt(1 - a),
        variance_type=config.variance_type,
        prediction_type=config.prediction_type,
    )
