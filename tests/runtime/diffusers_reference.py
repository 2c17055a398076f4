"""diffusers' schedulers as a reference: in float64, and along the steps of this product.

diffusers computes its tables and the update of a sample in float32, which loses up to three digits where little signal
is left. `in_double` makes the same code compute in float64: its modules see `torch` and `np` whose float32 is float64.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from aigc_runtime.generation.schedules import ScheduleConfig

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

CLASSES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
MODULES = ("ddim", "ddpm", "dpmsolver_multistep", "euler_discrete")
SCHEDULE = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type", "timestep_spacing")
SHARED = (*SCHEDULE, "steps_offset", "rescale_betas_zero_snr")
CLIPPING = ("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")


class Doubled:
    """A module whose float32 is float64."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def use_double(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODULES:
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(module, "torch", Doubled(torch))
        monkeypatch.setattr(module, "np", Doubled(np))


class VisitedPredecessor:
    """Stands for DDIM's number of steps: whatever is divided by it gives the distance to the next visited step."""

    def __init__(self, distance: int) -> None:
        self.distance = distance

    def __rfloordiv__(self, total: int) -> int:
        return self.distance


def make_scheduler(name: str, config: ScheduleConfig, **options: Any) -> Any:
    """The scheduler of a sampler; DPM-Solver++ and Euler know no clipping, DDPM alone a type of variance."""
    names: tuple[str, ...] = SHARED
    if name in ("ddim", "ddpm"):
        names += CLIPPING
    if name == "ddpm":
        names += ("variance_type",)
    return getattr(diffusers, CLASSES[name])(**{**{field: getattr(config, field) for field in names}, **options})
