"""A pipeline from text to pictures that diffusers wrote, as a program of four parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_models.families.clip_text import ClipText
from aigc_models.families.unet import UNet
from aigc_models.families.vae import AutoencoderKL
from aigc_models.program import Program
from aigc_models.sources.diffusers.adapter import open_adapters
from aigc_models.sources.diffusers.combined import CombinedWeights
from aigc_models.sources.diffusers.load_component import CLIP_WEIGHTS, LoadedComponent, load_component
from aigc_models.sources.diffusers.merge import MergedWeights
from aigc_models.sources.diffusers.text_to_image import TEXT_ENCODER, UNET, VAE, read_text_to_image
from aigc_models.text_to_image_program import text_to_image_program
from aigc_models.weights.checkpoint import Checkpoint

__all__ = ["load_text_to_image"]


def load_text_to_image(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a pipeline.

    Args:
        path: of its folder.
        source: as the user named it.
        options: of the export: `dynamic_size`, `lora`.

    Raises:
        CheckpointError: what is not supported, or damaged or foreign weights or adapters.
        ConfigError: sizes that make no model, or components that do not belong together.
    """
    found = read_text_to_image(path)
    adapters = open_adapters(options.get("lora", ()))
    text: LoadedComponent[ClipText] = load_component(
        lambda: ClipText(found.text_encoder),
        found.folders[TEXT_ENCODER],
        CLIP_WEIGHTS,
        merge=lambda weights: MergedWeights(weights, TEXT_ENCODER, adapters),
    )
    unet: LoadedComponent[UNet] = load_component(
        lambda: UNet(found.unet), found.folders[UNET], merge=lambda weights: MergedWeights(weights, UNET, adapters)
    )
    vae: LoadedComponent[AutoencoderKL] = load_component(lambda: AutoencoderKL(found.vae), found.folders[VAE])
    loaded: dict[str, LoadedComponent[Any]] = {TEXT_ENCODER: text, UNET: unet, VAE: vae}
    dynamic = options.get("dynamic_size")
    program = text_to_image_program(
        text_encoder=text.module,
        unet=unet.module,
        vae=vae.module,
        settings=found.settings,
        assets=found.tokenizer.files,
        dynamic_size=True if dynamic is None else dynamic,
        name=path.resolve().name or "text_to_image",
        checkpoint=Checkpoint(
            config=found.config,
            tensors=CombinedWeights({name: component.tensors for name, component in loaded.items()}),
            path=path,
            adapters=tuple((adapter.request.text, adapter.sha256) for adapter in adapters),
        ),
        notes=(
            *found.notes,
            *(adapter.note for adapter in adapters),
            *(f"{name}: {note}" for name, component in loaded.items() for note in component.notes),
        ),
    )
    return replace(program, source=source)
