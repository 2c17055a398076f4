"""A folder that diffusers wrote: what it holds, and that its parts belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.diffusers.components import INDEX_FILE, component_folder, pipeline_of, read_json
from aigc_models.sources.diffusers.scheduler import SCHEDULER_FILE, ReadScheduler, read_scheduler
from aigc_models.sources.diffusers.unet import UNET_CLASS, read_unet
from aigc_models.sources.diffusers.unet_condition import UNET_CONDITION_CLASS, read_unet_condition
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.errors import CheckpointError
from aigc_runtime.generation.samplers import SamplerConfig
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.printable import shown
from aigc_runtime.io.user_file import is_folder, path_exists

__all__ = ["PIPELINES", "UNETS", "DiffusersFolder", "read_folder"]

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
"""diffusers' pipelines of a UNet2DModel and a scheduler."""
UNETS: dict[str, Callable[..., UNetConfig]] = {UNET_CLASS: read_unet, UNET_CONDITION_CLASS: read_unet_condition}
"""Classes of UNets that run alone, and how their configurations are read."""
UNET, SCHEDULER = "unet", "scheduler"

ASSUMED = ReadScheduler(schedule=ScheduleConfig(), sampler="ddpm", config=SamplerConfig(follows="diffusers"))
"""Of a UNet that is alone: the schedule of Ho et al. 2020."""


@dataclass(frozen=True, kw_only=True)
class DiffusersFolder:
    """What a folder holds, before its weights are read.

    Attributes:
        kind: `_class_name` of the pipeline, or of the component where there is none.
        unet: the UNet's configuration.
        scheduler: what scheduler_config.json says.
        weights: the folder or file of the UNet's weights.
        config: all of its JSON, by file.
        notes: for the user.
    """

    kind: str
    unet: UNetConfig
    scheduler: ReadScheduler
    weights: Path
    config: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_folder(path: Path) -> DiffusersFolder:
    """Read the JSON of a pipeline's folder, or of a UNet's; a UNet inside a pipeline's folder brings its scheduler.

    Args:
        path: of the folder, or of the UNet's weights file.

    Raises:
        CheckpointError: a class, a component or a field that is not supported, or JSON that is damaged.
        ConfigError: values that make no model.
    """
    if path_exists(path / INDEX_FILE):
        return _pipeline(path, component_folder(path, UNET))
    folder = path if is_folder(path) else path.parent
    inside = path_exists(folder.parent / INDEX_FILE) and folder.resolve() == (folder.parent / UNET).resolve()
    if inside and pipeline_of(folder.parent)[0] in PIPELINES:
        return _pipeline(folder.parent, path)
    values = read_json(folder / CONFIG_FILE)
    kind = _unet_class(values)
    unet = UNETS[kind](values, where=CONFIG_FILE)
    config: dict[str, Any] = {UNET: values}
    notes: tuple[str, ...] = ()
    beside = component_folder(folder.parent, SCHEDULER) if inside else folder
    if path_exists(beside / SCHEDULER_FILE):
        config[SCHEDULER] = read_json(beside / SCHEDULER_FILE)
        scheduler = read_scheduler(config[SCHEDULER])
    else:
        scheduler = ASSUMED
        notes = (
            f"no {SCHEDULER_FILE}: a linear schedule of {ASSUMED.schedule.num_train_timesteps:,} steps and "
            "predicted noise are assumed, as in Ho et al. 2020; name the pipeline's folder for its own",
        )
    return _checked(
        DiffusersFolder(kind=kind, unet=unet, scheduler=scheduler, weights=path, config=config, notes=notes)
    )


def _unet_class(values: Mapping[str, Any]) -> str:
    kind = values.get("_class_name")
    if not isinstance(kind, str) or kind not in UNETS:
        raise CheckpointError(
            f"{CONFIG_FILE}: _class_name is {shown(kind)}, which is not supported",
            hint=f"supported: {', '.join(UNETS)}",
        )
    return kind


def _pipeline(folder: Path, weights: Path) -> DiffusersFolder:
    kind, index = pipeline_of(folder)
    parts = {name: value for name, value in index.items() if not name.startswith("_") and value is not None}
    if unknown := sorted(parts.keys() - {UNET, SCHEDULER}):
        raise CheckpointError(
            f"{INDEX_FILE}: the component {unknown[0]!r} is not known", hint=f"a {kind} has {UNET} and {SCHEDULER}"
        )
    config: dict[str, Any] = {"model_index": index}
    for name, file in ((UNET, CONFIG_FILE), (SCHEDULER, SCHEDULER_FILE)):
        if name not in parts:
            raise CheckpointError(f"{INDEX_FILE} names no {name}", hint="is it complete? copy it again")
        values = config[name] = read_json(component_folder(folder, name) / file)
        named = parts[name]
        if not isinstance(named, list) or len(named) != 2 or values.get("_class_name") != named[1]:
            raise CheckpointError(
                f"{INDEX_FILE} says of {name}: {shown(named)}, its {file} is of {shown(values.get('_class_name'))}",
                hint="the parts do not belong together: copy the folder again",
            )
    unet = read_unet(config[UNET], where=f"{UNET}: {CONFIG_FILE}")
    scheduler = read_scheduler(config[SCHEDULER])
    return _checked(DiffusersFolder(kind=kind, unet=unet, scheduler=scheduler, weights=weights, config=config))


def _checked(found: DiffusersFolder) -> DiffusersFolder:
    steps, table = found.scheduler.schedule.num_train_timesteps, found.unet.num_train_timesteps
    if table is not None and table < steps:
        raise CheckpointError(
            f"the scheduler has {steps:,} training steps, the UNet's table of steps {table:,} entries",
            hint="the scheduler and the UNet do not belong together",
        )
    if table is not None and found.scheduler.config.use_karras_sigmas:
        raise CheckpointError(
            "the scheduler visits fractions of a step (use_karras_sigmas), the UNet has a table of whole ones",
            hint="the scheduler and the UNet do not belong together",
        )
    return found
