"""A folder that diffusers wrote, as a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_models.families.unet import UNet
from aigc_models.program import Program
from aigc_models.programs import unet_program
from aigc_models.sources.diffusers.folder import read_folder
from aigc_models.sources.diffusers.weights import Renamed, find_component, open_component
from aigc_models.weights.before_memory import check_before_memory
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.stream_into import build_undrawn, stream_into
from aigc_runtime.errors import UnknownNameError
from aigc_runtime.generation.samplers import fitting_steps

__all__ = ["load_diffusers"]

OPTIONS = ("dynamic_size",)


def load_diffusers(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a pipeline, or a UNet2DModel.

    Args:
        path: of the folder, or of the weights in it.
        source: as the user named it.
        options: of the export.

    Raises:
        UnknownNameError: an option that such a model has not.
        CheckpointError: what is not supported, or damaged or foreign weights.
        ConfigError: sizes that make no model, or parts that do not belong together.
    """
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError(f"export option of {source!r}", option, OPTIONS)
    found = read_folder(path)
    found.unet.require_supported_channels()
    place = find_component(found.weights)
    stored = open_component(place.weights)
    renamed = Renamed(stored)
    check_before_memory(lambda: UNet(found.unet), renamed.described(), source=str(place.weights))
    module = build_undrawn(lambda: UNet(found.unet))
    assert isinstance(module, UNet)
    converted = stream_into(module, renamed, source=str(place.weights))
    schedule, sampler, config = found.scheduler.schedule, found.scheduler.sampler, found.scheduler.config
    program = unet_program(
        module.eval(),
        schedule,
        dynamic_size=options.get("dynamic_size"),
        default_sampler=sampler,
        sampler_config=config,
        default_steps=fitting_steps(schedule, found.scheduler.steps, sampler, config),
        name=_name(path),
        checkpoint=Checkpoint(config=found.config, tensors=stored, path=place.weights),
    )
    notes = (*found.notes, *place.notes, *stored.notes, *converted)
    return replace(program, source=source, notes=(*program.notes, *notes))


def _name(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "unet"
