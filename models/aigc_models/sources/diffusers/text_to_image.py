"""A pipeline from text to pictures as diffusers writes it: what it holds, and that its components belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_models.families.clip_text_config import ClipTextConfig
from aigc_models.families.latent_diffusion import check_components
from aigc_models.families.unet_config import UNetConfig
from aigc_models.sources.diffusers.autoencoder import VAE_CLASS, VAES, AnyVaeConfig, read_autoencoder
from aigc_models.sources.diffusers.components import (
    INDEX_FILE,
    component_folder,
    named_components,
    pipeline_of,
    read_json,
)
from aigc_models.sources.diffusers.corrections import correct_scheduler, correct_unet
from aigc_models.sources.diffusers.pipeline_forms import FORMS, PipelineForm, refuse_refiner
from aigc_models.sources.diffusers.prompt_tokenizer import PromptTokenizer, read_prompt_tokenizer
from aigc_models.sources.diffusers.scheduler import SCHEDULER_FILE, SCHEDULERS, ReadScheduler, read_scheduler
from aigc_models.sources.diffusers.text_encoder import CLIP_CLASS, PROJECTED_CLASS, read_clip_text
from aigc_models.sources.diffusers.unet_condition import UNET_CONDITION_CLASS, read_unet_condition
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.generation.samplers import fitting_steps
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.text_to_image_settings import (
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    PromptInfo,
    TextToImageSettings,
)

__all__ = ["TEXT_ENCODER", "TEXT_ENCODER_2", "UNET", "VAE", "TextToImageFolder", "read_text_to_image"]

UNET, VAE, SCHEDULER = "unet", "vae", "scheduler"
_FIRST: Mapping[str, tuple[str, ...]] = {TEXT_ENCODER: (CLIP_CLASS,)}
_BOTH: Mapping[str, tuple[str, ...]] = {**_FIRST, TEXT_ENCODER_2: (PROJECTED_CLASS,)}
TOKENIZERS = {TEXT_ENCODER: "tokenizer", TEXT_ENCODER_2: "tokenizer_2"}
"""Text encoder -> its tokenizer's component, and the stem of its file in the bundle."""
_TOKENIZER_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
_OTHERS: Mapping[str, tuple[str, ...]] = {
    UNET: (UNET_CONDITION_CLASS,),
    VAE: tuple(VAES),
    SCHEDULER: tuple(SCHEDULERS),
}
_IGNORED = {
    "safety_checker": "the safety checker is not exported: nothing looks at the pictures that the bundle makes",
    "feature_extractor": "",
    "image_encoder": "the image encoder is not exported: prompts are texts",
    "requires_safety_checker": "",
    "force_zeros_for_empty_prompt": "",
    "requires_aesthetics_score": "",
    "add_watermarker": "no watermark is drawn",
}
"""Components and fields that are passed over or read elsewhere, and what is said of them."""
UPCAST = (
    "the VAE is said to overflow in fp16 (force_upcast), and diffusers runs it in float32: in fp16 those of its "
    "products stay float32 here whose numbers come near the largest; vae_decoder=fp32,vae_encoder=fp32 keeps all so"
)


@dataclass(frozen=True, kw_only=True)
class TextToImageFolder:
    """What a folder holds, before its weights are read.

    Attributes:
        kind: `_class_name` of the pipeline.
        text_encoders: configurations of the text encoders, by component, the first one first.
        unet: the UNet's.
        vae: the autoencoder's.
        settings: of the pipeline that runs it here.
        tokenizers: of prompts, by text encoder.
        folders: of the components with weights.
        config: all of its JSON, by component.
        notes: for the user.
    """

    kind: str
    text_encoders: Mapping[str, ClipTextConfig]
    unet: UNetConfig
    vae: AnyVaeConfig
    settings: TextToImageSettings
    tokenizers: Mapping[str, PromptTokenizer]
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
    refuse_refiner(index)
    form = FORMS[kind]
    encoders = _BOTH if form.two_encoders else _FIRST
    classes = {**encoders, **dict.fromkeys((TOKENIZERS[name] for name in encoders), _TOKENIZER_CLASSES), **_OTHERS}
    named = named_components(index, classes, ignored=_IGNORED, kind=kind)
    folders = {name: component_folder(folder, name) for name in classes}
    config: dict[str, Any] = {"model_index": index}
    for name in (*encoders, *_OTHERS):
        file = SCHEDULER_FILE if name == SCHEDULER else CONFIG_FILE
        config[name] = read_json(folders[name] / file)
        _check_class(name, named[name], config[name], file)
    texts = {
        name: read_clip_text({**config[name], "architectures": [named[name]]}, where=f"{name}: {CONFIG_FILE}")
        for name in encoders
    }
    unet = read_unet_condition(config[UNET], where=f"{UNET}: {CONFIG_FILE}")
    unet, of_unet = correct_unet(unet, config[UNET], kind)
    scheduler, of_scheduler = correct_scheduler(read_scheduler(config[SCHEDULER]), kind)
    vae = read_autoencoder({"_class_name": named[VAE], **config[VAE]}, where=f"{VAE}: {CONFIG_FILE}")
    check_components(texts[TEXT_ENCODER], unet, vae, second=texts.get(TEXT_ENCODER_2))
    tokenizers = {
        name: read_prompt_tokenizer(folders[TOKENIZERS[name]], text, name=f"{TOKENIZERS[name]}.json")
        for name, text in texts.items()
    }
    there = [says for name, says in _IGNORED.items() if says and index.get(name) not in (None, [None, None], False)]
    there += form.scaling_notes(vae.scaling_factor)
    if form.two_encoders and config[VAE].get("force_upcast", named[VAE] == VAE_CLASS):
        there.append(UPCAST)
    return TextToImageFolder(
        kind=kind,
        text_encoders=texts,
        unet=unet,
        vae=vae,
        settings=_settings(scheduler, texts, unet, vae, tokenizers, form, index),
        tokenizers=tokenizers,
        folders={name: folders[name] for name in (*encoders, UNET, VAE)},
        config=config,
        notes=tuple(
            dict.fromkeys((*of_unet, *of_scheduler, *(note for t in tokenizers.values() for note in t.notes), *there))
        ),
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
    texts: Mapping[str, ClipTextConfig],
    unet: UNetConfig,
    vae: AnyVaeConfig,
    tokenizers: Mapping[str, PromptTokenizer],
    form: PipelineForm,
    index: Mapping[str, Any],
) -> TextToImageSettings:
    schedule, sampler, config = scheduler.schedule, scheduler.sampler, scheduler.config
    if schedule.learns_variance:
        raise ConfigError(
            f"{SCHEDULER_FILE}: variance_type is {schedule.variance_type!r}, the UNet gives no variance",
            hint="the scheduler and the UNet do not belong together",
        )
    if len(lengths := {tokenizer.prompt_tokens for tokenizer in tokenizers.values()}) > 1:
        raise ConfigError(
            f"the tokenizers make prompts of {' and '.join(map(str, sorted(lengths)))} tokens",
            hint="the components do not belong together: copy the whole folder again",
        )
    first, *rest = [
        PromptInfo(tokenizer=found.info, vocab_size=texts[name].vocab_size, pad_token_id=found.pad_token_id)
        for name, found in tokenizers.items()
    ]
    return TextToImageSettings(
        schedule=schedule,
        latent_channels=vae.latent_channels,
        latent_size=(unet.sample_size, unet.sample_size),
        latent_scale=vae.downscale,
        scaling_factor=vae.scaling_factor,
        tokenizer=first.tokenizer,
        vocab_size=first.vocab_size,
        prompt_tokens=lengths.pop(),
        pad_token_id=first.pad_token_id,
        default_sampler=sampler,
        sampler_config=config,
        default_steps=fitting_steps(schedule, scheduler.steps, sampler, config),
        default_guidance_scale=form.guidance_scale,
        takes_picture=unet.in_channels != vae.latent_channels,
        second=rest[0] if rest else None,
        zero_negative=form.zero_negative(index),
    )
