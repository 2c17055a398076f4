"""The noise schedule of a config.json: every field of diffusers' schedulers is honored, or refused by its name."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import from_json

__all__ = ["read_schedule"]

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
"""diffusers' classes whose configurations are read; the sampler is chosen when generating."""

OPTIONAL = ("trained_betas", "variance_type", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")
"""May be missing or null, since every scheduler that has them has the same defaults; of the others each has its own."""

FIXED: dict[str, tuple[object, ...]] = {
    "set_alpha_to_one": (True,),
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint",),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "final_sigmas_type": ("zero",),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "flow_shift": (1.0,),
    "use_dynamic_shifting": (False,),
    "time_shift_type": ("exponential",),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
}
"""Fields of these schedulers that are not settings here -> the values that say what is done here anyway."""


def read_schedule(value: Any, *, where: str = "config.json: schedule") -> ScheduleConfig:
    """Read a schedule, as training writes it or as diffusers' scheduler_config.json has it.

    Args:
        value: the parsed JSON.
        where: its place, for messages.

    Raises:
        ConfigError: fields that are missing, all of them at once; one that is unknown, or asks for what is not done.
    """
    if not isinstance(value, dict):
        return from_json(ScheduleConfig, value, where=where, error=ConfigError)
    known = {f.name: f for f in fields(ScheduleConfig)}
    given = dict(value)
    given.pop("_diffusers_version", None)
    scheduler = given.pop("_class_name", SCHEDULERS[0])
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"{where}._class_name is {scheduler!r}", hint=f"supported: {', '.join(SCHEDULERS)}")
    for name in [name for name in given if name not in known]:
        if name not in FIXED:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}.{name} is not a known field", hint=hint)
        if not any(given[name] == v and isinstance(given[name], bool) == isinstance(v, bool) for v in FIXED[name]):
            raise ConfigError(
                f"{where}.{name} is {given[name]!r}",
                hint=f"only {FIXED[name][0]!r} is supported: that is what the samplers here do",
            )
        del given[name]
    for name in OPTIONAL:
        if given.get(name) is None:
            given[name] = known[name].default
    if missing := [name for name in known if name not in given]:
        raise ConfigError(
            f"{where} lacks {', '.join(missing)}",
            hint="add them all: the defaults of diffusers' schedulers differ",
        )
    return from_json(ScheduleConfig, given, where=where, error=ConfigError)
