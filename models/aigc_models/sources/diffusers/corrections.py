"""What diffusers' pipelines change in the configurations of their components before they use them.

Folders of Stable Diffusion's first weeks lack values that its authors meant. diffusers puts them right in the pipeline,
so that a component's own config.json does not say what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.diffusers.scheduler import ReadScheduler

__all__ = ["correct_scheduler", "correct_unet"]

_STABLE_DIFFUSION: Mapping[str, Any] = {"steps_offset": 1, "clip_sample": False}
_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": _STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
}
"""Class of the pipeline -> fields of its scheduler and what they become."""
_FIRST_RIGHT = (0, 9)
"""The version since which diffusers writes the size that a UNet was trained with."""
_MIN_SIZE = 64


def correct_scheduler(scheduler: ReadScheduler, kind: str) -> tuple[ReadScheduler, tuple[str, ...]]:
    """Give a scheduler the values that a pipeline gives it, and say which they are.

    Args:
        scheduler: as its file has it.
        kind: class of the pipeline.
    """
    wanted = _SCHEDULES.get(kind, {})
    of_schedule, of_config = _differing(scheduler.schedule, wanted), _differing(scheduler.config, wanted)
    corrected = replace(
        scheduler,
        schedule=replace(scheduler.schedule, **{field: wanted[field] for field in of_schedule}),
        config=replace(scheduler.config, **{field: wanted[field] for field in of_config}),
    )
    return corrected, tuple(
        f"the scheduler's {field} is {found}, and {kind} makes it {wanted[field]}"
        for field, found in {**of_schedule, **of_config}.items()
    )


def _differing(part: object, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have another value than is wanted, and theirs."""
    return {field: found for field, value in wanted.items() if (found := getattr(part, field, value)) != value}


def correct_unet(unet: UNetConfig, values: Mapping[str, Any], kind: str) -> tuple[UNetConfig, tuple[str, ...]]:
    """Give a UNet the size that a pipeline gives it, and say so.

    Args:
        unet: as its file has it.
        values: that file.
        kind: class of the pipeline.
    """
    version = values.get("_diffusers_version")
    if kind not in _SCHEDULES or not isinstance(version, str) or unet.sample_size >= _MIN_SIZE:
        return unet, ()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if len(numbers) < len(_FIRST_RIGHT) or numbers >= _FIRST_RIGHT:
        return unet, ()
    note = (
        f"the UNet's sample_size is {unet.sample_size}, and {kind} makes it {_MIN_SIZE}: it is of diffusers {version}"
    )
    return replace(unet, sample_size=_MIN_SIZE), (note,)
