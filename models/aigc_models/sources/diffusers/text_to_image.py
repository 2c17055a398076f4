"""A pipeline from text to pictures as diffusers writes it: what it holds, and that its components belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.families.latent_diffusion import check_components
from aigc_models.families.unet_config import UNetConfig
from aigc_models.families.vae_config import VaeConfig
from aigc_models.sources.diffusers.autoencoder import VAE_CLASS, read_vae
from aigc_models.sources.diffusers.components import (
    GUIDANCE_SCALES,
    INDEX_FILE,
    component_folder,
    named_components,
    pipeline_of,
    read_json,
)
from aigc_models.sources.diffusers.corrections import correct_scheduler, correct_unet
from aigc_models.sources.diffusers.prompt_tokenizer import PromptTokenizer, read_prompt_tokenizer
from aigc_models.sources.diffusers.scheduler import SCHEDULER_FILE, SCHEDULERS, ReadScheduler, read_scheduler
from aigc_models.sources.diffusers.text_encoder import CLIP_CLASS, read_clip_text
from aigc_models.sources.diffusers.unet_condition import UNET_CONDITION_CLASS, read_unet_condition
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.generation.samplers import fitting_steps
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

__all__ = ["TEXT_ENCODER", "UNET", "VAE", "TextToImageFolder", "read_text_to_image"]

TEXT_ENCODER, UNET, VAE, SCHEDULER, TOKENIZER = "text_encoder", "unet", "vae", "scheduler", "tokenizer"
_CLASSES: Mapping[str, tuple[str, ...]] = {
    TEXT_ENCODER: (CLIP_CLASS,),
    TOKENIZER: ("CLIPTokenizer", "CLIPTokenizerFast"),
    UNET: (UNET_CONDITION_CLASS,),
    VAE: (VAE_CLASS,),
    SCHEDULER: tuple(SCHEDULERS),
}
_FILES = {TEXT_ENCODER: CONFIG_FILE, UNET: CONFIG_FILE, VAE: CONFIG_FILE, SCHEDULER: SCHEDULER_FILE}
_IGNORED = {
    "safety_checker": "the safety checker is not exported: nothing looks at the pictures that the bundle makes",
    "feature_extractor": "",
    "image_encoder": "the image encoder is not exported: prompts are texts",
    "requires_safety_checker": "",
}
"""Components that are passed over, and what is said of them."""


@dataclass(frozen=True, kw_only=True)
class TextToImageFolder:
    """What a folder holds, before its weights are read.

    Attributes:
        kind: `_class_name` of the pipeline.
        text_encoder: the text encoder's configuration.
        unet: the UNet's.
        vae: the autoencoder's.
        settings: of the pipeline that runs it here.
        tokenizer: of prompts.
        folders: of the components with weights.
        config: all of its JSON, by component.
        notes: for the user.
    """

    kind: str
    text_encoder: ClipTextConfig
    unet: UNetConfig
    vae: VaeConfig
    settings: TextToImageSettings
    tokenizer: PromptTokenizer
    folders: Mapping[str, Path]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_text_to_image(folder: Path) -> TextToImageFolder:
    """Read the JSON of a pipeline's folder.

    Args:
        folder: with model_index.json.

    Raises:
        CheckpointError: a component, a class or a field that is not supported, or JSON that is damaged.
        ConfigError: values that make no model, or components that do not belong together; names both sizes.
    """
    kind, index = pipeline_of(folder)
    named = named_components(index, _CLASSES, ignored=_IGNORED, kind=kind)
    folders = {name: component_folder(folder, name) for name in _CLASSES}
    config: dict[str, Any] = {"model_index": index}
    for name, file in _FILES.items():
        config[name] = read_json(folders[name] / file)
        _check_class(name, named[name], config[name], file)
    text = read_clip_text(config[TEXT_ENCODER], where=f"{TEXT_ENCODER}: {CONFIG_FILE}")
    unet = read_unet_condition(config[UNET], where=f"{UNET}: {CONFIG_FILE}")
    unet, of_unet = correct_unet(unet, config[UNET], kind)
    scheduler, of_scheduler = correct_scheduler(read_scheduler(config[SCHEDULER]), kind)
    vae = read_vae(config[VAE], where=f"{VAE}: {CONFIG_FILE}")
    check_components(text, unet, vae)
    tokenizer = read_prompt_tokenizer(folders[TOKENIZER], text)
    there = [says for name, says in _IGNORED.items() if says and index.get(name) not in (None, [None, None], False)]
    return TextToImageFolder(
        kind=kind,
        text_encoder=text,
        unet=unet,
        vae=vae,
        settings=_settings(scheduler, text, unet, vae, tokenizer, GUIDANCE_SCALES[kind]),
        tokenizer=tokenizer,
        folders={name: folders[name] for name in (TEXT_ENCODER, UNET, VAE)},
        config=config,
        notes=(*of_unet, *of_scheduler, *tokenizer.notes, *there),
    )


def _check_class(name: str, named: str, values: Mapping[str, Any], file: str) -> None:
    """A component's own file must be of the class that the index names."""
    own = values.get("_class_name") or next(iter(values.get("architectures") or ()), None)
    if own is not None and own != named:
        raise CheckpointError(
            f"{INDEX_FILE} says of {name}: {shown(named)}, its {file} is of {shown(own)}",
            hint="the parts do not belong together: copy the folder again",
        )


def _settings(
    scheduler: ReadScheduler,
    text: ClipTextConfig,
    unet: UNetConfig,
    vae: VaeConfig,
    tokenizer: PromptTokenizer,
    guidance_scale: float,
) -> TextToImageSettings:
    schedule, sampler, config = scheduler.schedule, scheduler.sampler, scheduler.config
    if schedule.learns_variance:
        raise ConfigError(
            f"{SCHEDULER_FILE}: variance_type is {schedule.variance_type!r}, the UNet gives no variance",
            hint="the scheduler and the UNet do not belong together",
        )
    return TextToImageSettings(
        schedule=schedule,
        latent_channels=vae.latent_channels,
        latent_size=(unet.sample_size, unet.sample_size),
        latent_scale=vae.downscale,
        scaling_factor=vae.scaling_factor,
        tokenizer=tokenizer.info,
        vocab_size=text.vocab_size,
        prompt_tokens=tokenizer.prompt_tokens,
        pad_token_id=tokenizer.pad_token_id,
        default_sampler=sampler,
        sampler_config=config,
        default_steps=fitting_steps(schedule, scheduler.steps, sampler, config),
        default_guidance_scale=guidance_scale,
        takes_picture=unet.in_channels != vae.latent_channels,
    )
