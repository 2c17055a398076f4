"""scheduler_config.json: which noise schedule a model was trained with, which sampler runs over it, and how.

A scheduler that came with a model is followed to the letter (`SamplerConfig.follows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from aigc_models.sources.diffusers.given import read_given, require
from aigc_runtime.errors import CheckpointError
from aigc_runtime.generation.samplers import SAMPLERS, SamplerConfig
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import from_json
from aigc_runtime.io.printable import shown

__all__ = ["SCHEDULERS", "SCHEDULER_FILE", "ReadScheduler", "SchedulerClass", "read_scheduler"]

SCHEDULER_FILE = "scheduler_config.json"

DEFAULT_STEPS = 50
"""Enough for every solver here; ancestral sampling alone gains from more."""

_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
"""Of every class, with the defaults of most."""

_CLIPPING: dict[str, Any] = {"clip_sample": True, "clip_sample_range": 1.0}
_THRESHOLDING: dict[str, Any] = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_SIGMAS: dict[str, tuple[object, ...]] = {"use_exponential_sigmas": (False, None), "use_beta_sigmas": (False, None)}
_FLOW: dict[str, tuple[object, ...]] = {"use_flow_sigmas": (False, None), "use_dynamic_shifting": (False, None)}
_MULTISTEP: dict[str, Any] = {
    **_NOISE,
    **_THRESHOLDING,
    "solver_order": 2,
    "lower_order_final": True,
    "use_karras_sigmas": False,
    "final_sigmas_type": "zero",
    "rescale_betas_zero_snr": False,
}
_NO_SAMPLE = {"prediction_type": ("epsilon", "v_prediction")}


@dataclass(frozen=True, kw_only=True)
class SchedulerClass:
    """A scheduler of diffusers.

    Attributes:
        sampler: (fields) -> the name of our sampler; takes out the fields that say it.
        defaults: field -> its default there, of those that are read.
        fixed: field -> the values that are supported, of those that are no settings here; the first is the default.
        unused: fields that change nothing in what is supported.
        allowed: the same for fields that are settings.
        steps: of a run where a request does not say it.
    """

    sampler: Callable[[dict[str, Any]], str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    allowed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    steps: int = DEFAULT_STEPS


@dataclass(frozen=True, kw_only=True)
class ReadScheduler:
    """What scheduler_config.json says.

    Attributes:
        schedule: that the model was trained with.
        sampler: a name in `SAMPLERS`.
        config: how that one runs.
        steps: of a run where a request does not say it.
    """

    schedule: ScheduleConfig
    sampler: str
    config: SamplerConfig
    steps: int = DEFAULT_STEPS


def _named(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda _given: name


def _dpmpp(given: dict[str, Any]) -> str:
    order, kind = given.pop("solver_order"), given.pop("algorithm_type")
    kinds = {"dpmsolver++": "", "sde-dpmsolver++": "_sde"}
    if type(order) is not int or not 1 <= order <= 3:
        raise CheckpointError(f"{SCHEDULER_FILE}: solver_order is {shown(order)}", hint="must be from 1 to 3")
    if kind not in list(kinds):
        raise CheckpointError(
            f"{SCHEDULER_FILE}: algorithm_type is {shown(kind)}, which is not supported",
            hint=f"supported: {', '.join(kinds)}; those that extrapolate the noise are deprecated in diffusers, too",
        )
    _translate(given, {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"})
    return f"dpmpp_{order}m{kinds[kind]}"


def _unipc(given: dict[str, Any]) -> str:
    _translate(given, {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"})
    if given["use_karras_sigmas"] and given["final_sigmas_type"] == "sigma_min":
        raise CheckpointError(
            f"{SCHEDULER_FILE}: use_karras_sigmas with final_sigmas_type 'sigma_min'",
            hint="the last step of UniPC would go nowhere, which divides by zero: set it to 'zero'",
        )
    return "unipc"


def _translate(given: dict[str, Any], other: Mapping[str, str]) -> None:
    """Take the solver type of another class for this one's own, as diffusers does."""
    kind = given["solver_type"]
    given["solver_type"] = other.get(kind, kind) if isinstance(kind, str) else kind


SCHEDULERS: dict[str, SchedulerClass] = {
    "DDPMScheduler": SchedulerClass(
        sampler=_named("ddpm"),
        defaults={
            **_NOISE,
            **_CLIPPING,
            **_THRESHOLDING,
            "timestep_spacing": "leading",
            "variance_type": "fixed_small",
            "rescale_betas_zero_snr": False,
        },
    ),
    "DDIMScheduler": SchedulerClass(
        sampler=_named("ddim"),
        defaults={
            **_NOISE,
            **_CLIPPING,
            **_THRESHOLDING,
            "timestep_spacing": "leading",
            "set_alpha_to_one": True,
            "rescale_betas_zero_snr": False,
        },
    ),
    "PNDMScheduler": SchedulerClass(
        sampler=_named("pndm"),
        defaults={**_NOISE, "timestep_spacing": "leading", "skip_prk_steps": False, "set_alpha_to_one": False},
        allowed=_NO_SAMPLE,
    ),
    "LMSDiscreteScheduler": SchedulerClass(
        sampler=_named("lms"), defaults={**_NOISE, "use_karras_sigmas": False}, fixed=_SIGMAS
    ),
    "EulerDiscreteScheduler": SchedulerClass(
        sampler=_named("euler"),
        defaults={
            **_NOISE,
            "interpolation_type": "linear",
            "use_karras_sigmas": False,
            "timestep_type": "discrete",
            "rescale_betas_zero_snr": False,
            "final_sigmas_type": "zero",
        },
        fixed={**_SIGMAS, "sigma_min": (None,), "sigma_max": (None,)},
    ),
    "EulerAncestralDiscreteScheduler": SchedulerClass(
        sampler=_named("euler_ancestral"),
        defaults={**_NOISE, "rescale_betas_zero_snr": False},
        allowed=_NO_SAMPLE,
    ),
    "HeunDiscreteScheduler": SchedulerClass(
        sampler=_named("heun"),
        defaults={
            **_NOISE,
            **_CLIPPING,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
            "use_karras_sigmas": False,
        },
        fixed=_SIGMAS,
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        sampler=_dpmpp,
        defaults={
            **_MULTISTEP,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "euler_at_final": False,
            "lambda_min_clipped": None,
            "variance_type": None,
        },
        fixed={**_SIGMAS, **_FLOW, "use_lu_lambdas": (False, None)},
        unused=("flow_shift", "time_shift_type"),
    ),
    "UniPCMultistepScheduler": SchedulerClass(
        sampler=_unipc,
        defaults={**_MULTISTEP, "predict_x0": True, "solver_type": "bh2", "disable_corrector": ()},
        fixed={
            **_SIGMAS,
            **_FLOW,
            "solver_p": (None,),
            "sigma_min": (None,),
            "sigma_max": (None,),
            "shift_terminal": (None,),
        },
        unused=("flow_shift", "time_shift_type"),
    ),
    "LCMScheduler": SchedulerClass(
        sampler=_named("lcm"),
        defaults={
            **_NOISE,
            **_CLIPPING,
            **_THRESHOLDING,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "timestep_spacing": "leading",
            "original_inference_steps": 50,
            "timestep_scaling": 10.0,
            "rescale_betas_zero_snr": False,
        },
        unused=("set_alpha_to_one",),
        steps=4,
    ),
}
"""diffusers' `_class_name` -> how it is read."""

_ANYWHERE = frozenset(name for known in SCHEDULERS.values() for name in (*known.defaults, *known.fixed, *known.unused))
"""Fields of one class in the configuration of another change nothing: diffusers passes over them."""


def read_scheduler(values: Mapping[str, Any], *, where: str = SCHEDULER_FILE) -> ReadScheduler:
    """Read a scheduler's configuration as diffusers writes it.

    Args:
        values: the parsed JSON.
        where: the file's name, for messages.

    Raises:
        CheckpointError: a class that is not known; or a field that is not known, or asks for what is not done here.
    """
    name = values.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise CheckpointError(
            f"{where}: _class_name is {shown(name)}, which is not supported", hint=f"supported: {', '.join(SCHEDULERS)}"
        )
    known = SCHEDULERS[name]
    defaults = {**known.defaults, **{field: values[0] for field, values in known.fixed.items()}}
    given = read_given(values, defaults, where=where, unused=_ANYWHERE)
    require(given, known.fixed, where=where)
    require(dict(given), known.allowed, where=where)
    sampler = known.sampler(given)
    if given.get("variance_type", "") is None:
        del given["variance_type"]
    # Where a class does not clip, nothing does.
    of_schedule = {"clip_sample": False, **{k: v for k, v in given.items() if k in _names(ScheduleConfig)}}
    of_sampler = {k: v for k, v in given.items() if k in _names(SamplerConfig)}
    if of_sampler.keys() - SAMPLERS[sampler].options:
        raise AssertionError(f"{sampler} has not all of {sorted(of_sampler)}")
    return ReadScheduler(
        schedule=_made(ScheduleConfig, of_schedule, where),
        sampler=sampler,
        config=_made(SamplerConfig, {**of_sampler, "follows": "diffusers"}, where),
        steps=known.steps,
    )


def _names(cls: type[Any]) -> set[str]:
    return {f.name for f in fields(cls)}


def _made(cls: type[Any], given: Mapping[str, Any], where: str) -> Any:
    whole = {f.name: given.get(f.name, f.default) for f in fields(cls)}
    return from_json(cls, whole, where=where, error=CheckpointError)
