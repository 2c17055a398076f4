"""Checks of how a diffusion model is sampled where a request does not say it."""

from __future__ import annotations

from aigc_runtime.core.ranges import MAX_GUIDANCE_SCALE, MAX_STEPS, check_range
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.samplers import SAMPLERS, SamplerConfig, check_options
from aigc_runtime.generation.schedules import ScheduleConfig

__all__ = ["check_sampling"]


def check_sampling(
    schedule: ScheduleConfig, *, sampler: str, config: SamplerConfig, steps: int, guidance_scale: float
) -> None:
    """Refuse defaults that no request could be sampled with.

    Args:
        schedule: that the model was trained with.
        sampler: the default one.
        config: how it runs.
        steps: the default number of them.
        guidance_scale: the default one.

    Raises:
        ConfigError: names the field of the settings.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"default_sampler is {sampler!r}", hint=f"valid: {', '.join(SAMPLERS)}")
    check_options(sampler, config)
    check_range("default_steps", steps, 1, min(MAX_STEPS, schedule.num_train_timesteps))
    check_range("default_guidance_scale", guidance_scale, 0, MAX_GUIDANCE_SCALE)
    try:
        SAMPLERS[sampler].levels(schedule, config, steps)
    except InputError as err:
        raise ConfigError(f"default_steps is {steps}: {err.message}", hint=err.hint) from err
