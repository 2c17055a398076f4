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
from aigc_models.sources.diffusers.load_component import LoadedComponent, load_component, load_text_encoder, load_vae
from aigc_models.sources.diffusers.load_text_to_image import load_text_to_image
from aigc_models.sources.diffusers.which import form_of
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.errors import UnknownNameError
from aigc_runtime.generation.samplers import fitting_steps

__all__ = ["load_diffusers"]

OPTIONS = ("dynamic_size",)
TEXT_TO_IMAGE_OPTIONS = (*OPTIONS, "lora", "lora_partial", "embedding")


def load_diffusers(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a pipeline, or a component of one.

    Args:
        path: of the folder, or of the weights in it.
        source: as the user named it.
        options: of the export.

    Raises:
        UnknownNameError: an option that such a model has not.
        CheckpointError: what is not supported, or damaged or foreign weights.
        ConfigError: sizes that make no model, or parts that do not belong together.
    """
    load, known = _LOADERS[form_of(path)]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"export option of {source!r}", option, known)
    return load(path, source=source, options=options)


def _load_unet(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a UNet with its scheduler: a pipeline without a text encoder, or a UNet alone."""
    found = read_folder(path)
    found.unet.require_supported_channels()
    loaded: LoadedComponent[UNet] = load_component(lambda: UNet(found.unet), found.weights)
    schedule, sampler, config = found.scheduler.schedule, found.scheduler.sampler, found.scheduler.config
    program = unet_program(
        loaded.module,
        schedule,
        dynamic_size=options.get("dynamic_size"),
        default_sampler=sampler,
        sampler_config=config,
        default_steps=fitting_steps(schedule, found.scheduler.steps, sampler, config),
        name=_name(path),
        checkpoint=Checkpoint(config=found.config, tensors=loaded.tensors, path=loaded.path),
    )
    return replace(program, source=source, notes=(*program.notes, *found.notes, *loaded.notes))


def _name(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name or "unet"


_LOADERS = {
    "unet": (_load_unet, OPTIONS),
    "text_to_image": (load_text_to_image, TEXT_TO_IMAGE_OPTIONS),
    "vae": (load_vae, OPTIONS),
    "text_encoder": (load_text_encoder, OPTIONS),
}
