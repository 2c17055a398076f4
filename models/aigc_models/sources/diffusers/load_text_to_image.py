"""A pipeline from text to pictures that diffusers wrote, as a program of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aigc_models.families.clip_text import ClipText
from aigc_models.families.unet import UNet
from aigc_models.program import Program
from aigc_models.sources.diffusers.adapter import open_adapters
from aigc_models.sources.diffusers.combined import CombinedWeights
from aigc_models.sources.diffusers.embedding import open_embeddings
from aigc_models.sources.diffusers.learned_tokens import extend_folder
from aigc_models.sources.diffusers.load_component import CLIP_WEIGHTS, LoadedComponent, load_autoencoder, load_component
from aigc_models.sources.diffusers.merge import MergedWeights, check_adapters, merge_notes
from aigc_models.sources.diffusers.text_to_image import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE, read_text_to_image
from aigc_models.text_to_image_program import text_to_image_program
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.stored_weights import WeightsReader

__all__ = ["load_text_to_image"]


def load_text_to_image(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a pipeline.

    Args:
        path: of its folder.
        source: as the user named it.
        options: of the export: `dynamic_size`, `lora`, `lora_partial`, `embedding`.

    Raises:
        CheckpointError: what is not supported, or damaged or foreign weights, adapters or embeddings.
        ConfigError: sizes that make no model, or components that do not belong together.
    """
    embeddings = open_embeddings(options.get("embedding", ()))
    found, extended = extend_folder(read_text_to_image(path), embeddings)
    adapters = open_adapters(options.get("lora", ()), partial=bool(options.get("lora_partial")))
    check_adapters(adapters, (*found.text_encoders, UNET))

    merged: dict[str, MergedWeights] = {}

    def merge(name: str) -> Callable[[WeightsReader], WeightsReader]:
        def into(weights: WeightsReader) -> WeightsReader:
            merged[name] = MergedWeights(weights, name, adapters)
            return extended[name].weights(merged[name]) if name in extended else merged[name]

        return into

    texts: dict[str, LoadedComponent[ClipText]] = {
        name: load_component(partial(ClipText, config), found.folders[name], CLIP_WEIGHTS, merge=merge(name))
        for name, config in found.text_encoders.items()
    }
    unet: LoadedComponent[UNet] = load_component(lambda: UNet(found.unet), found.folders[UNET], merge=merge(UNET))
    vae = load_autoencoder(found.vae, found.folders[VAE])
    loaded: dict[str, LoadedComponent[Any]] = {**texts, UNET: unet, VAE: vae}
    dynamic = options.get("dynamic_size")
    program = text_to_image_program(
        text_encoder=texts[TEXT_ENCODER].module,
        text_encoder_2=texts[TEXT_ENCODER_2].module if TEXT_ENCODER_2 in texts else None,
        unet=unet.module,
        vae=vae.module,
        settings=found.settings,
        assets={name: data for tokenizer in found.tokenizers.values() for name, data in tokenizer.files.items()},
        origins={name: tokenizer.origin for name, tokenizer in found.tokenizers.items()},
        dynamic_size=True if dynamic is None else dynamic,
        name=path.resolve().name or "text_to_image",
        checkpoint=Checkpoint(
            config=found.config,
            tensors=CombinedWeights({name: component.tensors for name, component in loaded.items()}),
            path=path,
            adapters=(
                *((adapter.request.text, adapter.sha256) for adapter in adapters),
                *((embedding.text, embedding.sha256) for embedding in embeddings),
            ),
        ),
        notes=(
            *found.notes,
            *merge_notes(adapters, merged),
            *(f"{name}: {note}" for name, component in loaded.items() for note in component.notes),
        ),
    )
    return replace(program, source=source)
