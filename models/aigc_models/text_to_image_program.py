"""Make the program of a latent diffusion model from text to pictures: text encoders, UNet, and both halves of a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from aigc_models.families.clip_text import ClipText
from aigc_models.families.latent_diffusion import check_components
from aigc_models.families.tiny_vae import AutoencoderTiny
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.families.unet_additions import SIZE_IDS, text_embed_dim
from aigc_models.families.vae import AutoencoderKL, decode, encode
from aigc_models.program import Part, Program, QuantHints
from aigc_models.text_assets import PromptOrigin, make_prompt_vectors
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.sizes import Size
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.pipelines.denoiser import CONTEXT, MODEL_OUTPUT, SAMPLE, TIMESTEP
from aigc_runtime.pipelines.text_to_image_settings import (
    IMAGE,
    INPUT_IDS,
    LATENT,
    MEAN,
    STD,
    TEXT_EMBEDS,
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    TIME_IDS,
    TIMESTEP_COND,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    TextToImageSettings,
)

__all__ = ["Autoencoder", "text_encoder_part", "text_to_image_program", "vae_parts"]

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny
"""Of pictures to latents and back."""
MAX_BATCH = 64
SIDES = ("height", "width")
"""The dimensions of a picture, or of latents, that may vary."""
MAX_SIDE = 2048
"""Of the sizes of pictures that a graph is tried with."""


class _TextEncoder(nn.Module):
    """Tokens to the states that the UNet attends to."""

    def __init__(self, model: ClipText) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        """[B, T] -> [B, T, X]."""
        return (self.model(input_ids),)


class _Penultimate(nn.Module):
    """Tokens to what the last layer would take, and no weight of it."""

    def __init__(self, model: ClipText) -> None:
        super().__init__()
        self.embeddings, self.encoder = model.embeddings, model.encoder.without_last()

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        """[B, T] -> [B, T, X]."""
        return (self.encoder(self.embeddings(input_ids))[1],)


class _Projected(nn.Module):
    """Tokens to what the last layer takes, and to the embedding of the whole text."""

    def __init__(self, model: ClipText) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] -> [B, T, X] and [B, P]."""
        return self.model.projected(input_ids)


class _Unet(nn.Module):
    """The UNet without classes; `names` are those of its conditions beside the context."""

    def __init__(self, model: UNet, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Tensor,
        first: Tensor | None = None,
        second: Tensor | None = None,
        third: Tensor | None = None,
    ) -> tuple[Tensor]:
        """([B, C, h, w], [B], [B, T, X], [B, ...] for each name) -> [B, C, h, w]."""
        named = dict(zip(self.names, (first, second, third), strict=False))
        return (self.model(sample, timestep, None, context, **named),)


class _Decode(nn.Module):
    """The half of the VAE that makes pictures, and no weight of the other."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        """[B, C, h, w] -> [B, P, H, W]."""
        return (decode(latent, self.decoder, self.post_quant_conv),)


class _Encode(nn.Module):
    """The half of the VAE that reads pictures, and no weight of the other."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, H, W] -> mean and deviation [B, C, h, w]."""
        mean, logvar = encode(image, self.encoder, self.quant_conv)
        return mean, torch.exp(0.5 * logvar)


class _EncodeLatent(nn.Module):
    """The same half of an autoencoder whose latents are no distributions."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """[B, P, H, W] -> [B, C, h, w]."""
        return (self.encoder(image),)


def text_encoder_part(model: ClipText, tokens: int, *, name: str = TEXT_ENCODER, penultimate: bool = False) -> Part:
    """Make the part of a text encoder; one with a projection gives the embedding of the whole text as well.

    Args:
        model: the encoder.
        tokens: T, which every prompt is filled up to, as the model was trained.
        name: of the part.
        penultimate: give the states that go into the last layer, as an encoder with a projection always does.
    """
    config = model.config
    outputs = [TensorSpec(name=CONTEXT, dtype="float32", shape=("batch", tokens, config.hidden_size))]
    module: nn.Module = _Penultimate(model) if penultimate else _TextEncoder(model)
    if config.projection_dim is not None:
        module = _Projected(model)
        outputs.append(TensorSpec(name=TEXT_EMBEDS, dtype="float32", shape=("batch", config.projection_dim)))
    return Part(
        name=name,
        module=module.eval(),
        interface=Interface(
            inputs=(TensorSpec(name=INPUT_IDS, dtype="int64", shape=("batch", tokens), low=0, high=config.vocab_size),),
            outputs=tuple(outputs),
            dims=(DimSpec(name="batch", max=2 * MAX_BATCH),),
        ),
    )


def _conditions(config: UNetConfig) -> dict[str, int]:
    """What a UNet takes beside sample, time and context, and how many numbers of each."""
    sizes = {TIMESTEP_COND: config.time_cond_proj_dim}
    if config.addition_embed_type is not None:
        total = config.projection_class_embeddings_input_dim
        sizes |= {TEXT_EMBEDS: text_embed_dim(config.addition_time_embed_dim, total), TIME_IDS: SIZE_IDS}
    return {name: size for name, size in sizes.items() if size is not None}


def _unet_part(model: UNet, *, tokens: int, steps: int, dynamic: bool) -> Part:
    config, conditions = model.config, _conditions(model.config)
    assert config.cross_attention_dim is not None
    sides: tuple[Size, Size] = SIDES if dynamic else (config.sample_size, config.sample_size)
    dims = [DimSpec(name="batch", max=2 * MAX_BATCH)]
    if dynamic:
        dims += [DimSpec(name=n, min=config.min_size, multiple_of=config.multiple_of) for n in SIDES]
    return Part(
        name=UNET,
        module=_Unet(model, tuple(conditions)).eval(),
        interface=Interface(
            inputs=(
                _spec(SAMPLE, config.in_channels, sides),
                TensorSpec(name=TIMESTEP, dtype="float32", shape=("batch",)),
                TensorSpec(name=CONTEXT, dtype="float32", shape=("batch", tokens, config.cross_attention_dim)),
                *(TensorSpec(name=n, dtype="float32", shape=("batch", size)) for n, size in conditions.items()),
            ),
            outputs=(_spec(MODEL_OUTPUT, config.out_channels, sides),),
            dims=tuple(dims),
        ),
        example_ranges={TIMESTEP: (0, steps), **({TIME_IDS: (0, MAX_SIDE)} if TIME_IDS in conditions else {})},
        hints=QuantHints(sensitive=("conv_in", "conv_out")),
    )


def vae_parts(
    vae: Autoencoder,
    *,
    latent_size: int | None = None,
    picture: str = IMAGE,
    latent: str = LATENT,
    latent_sides: tuple[str, str] = SIDES,
) -> tuple[Part, Part]:
    """Make the parts of an autoencoder: the decoder, and the encoder.

    Args:
        vae: the autoencoder.
        latent_size: side of the latents; None lets both sides vary.
        picture: what the encoder's input is called.
        latent: what the decoder's input is called.
        latent_sides: what the sides of the decoder's input are called.
    """
    config, f = vae.config, vae.config.downscale
    batch = DimSpec(name="batch", max=MAX_BATCH)
    if latent_size is None:
        small, large = _shape(latent_sides, "{}"), _shape(latent_sides, f"{f}*{{}}" if f > 1 else "{}")
        wide, halved = _shape(SIDES, "{}"), _shape(SIDES, f"{{}}//{f}" if f > 1 else "{}")
        of_latents = (batch, *(DimSpec(name=name) for name in latent_sides))
        of_pictures = (batch, *(DimSpec(name=name, min=f, multiple_of=f) for name in SIDES))
    else:
        small = halved = (latent_size, latent_size)
        large = wide = (f * latent_size, f * latent_size)
        of_latents = of_pictures = (batch,)
    decoder = Part(
        name=VAE_DECODER,
        module=_Decode(vae).eval(),
        interface=Interface(
            inputs=(_spec(latent, config.latent_channels, small),),
            outputs=(_spec(IMAGE, config.out_channels, large),),
            dims=of_latents,
        ),
        hints=QuantHints(sensitive=vae.decoder_ends),
    )
    encoder = Part(
        name=VAE_ENCODER,
        module=(_Encode(vae) if vae.draws else _EncodeLatent(vae)).eval(),
        interface=Interface(
            inputs=(_spec(picture, config.in_channels, wide),),
            outputs=tuple(
                _spec(name, config.latent_channels, halved) for name in ((MEAN, STD) if vae.draws else (MEAN,))
            ),
            dims=of_pictures,
        ),
        hints=QuantHints(sensitive=vae.encoder_ends),
    )
    return decoder, encoder


def _shape(sides: tuple[str, str], form: str) -> tuple[Size, Size]:
    return form.format(sides[0]), form.format(sides[1])


def _spec(name: str, channels: int, sides: tuple[Size, Size]) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", channels, *sides))


def text_to_image_program(
    *,
    text_encoder: ClipText,
    unet: UNet,
    vae: Autoencoder,
    text_encoder_2: ClipText | None = None,
    settings: TextToImageSettings,
    assets: Mapping[str, bytes],
    origins: Mapping[str, PromptOrigin] | None = None,
    dynamic_size: bool = True,
    name: str = "text_to_image",
    model_config: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    notes: tuple[str, ...] = (),
) -> Program:
    """Make the program of a latent diffusion model.

    Args:
        text_encoder: makes what the UNet attends to.
        unet: predicts noise in latents.
        vae: pictures to latents and back.
        text_encoder_2: another one with a projection, whose states lie beside those of the first (Podell et al. 2023).
        settings: of the pipeline.
        assets: the files of its tokenizers.
        origins: where these came from, by the role of their text encoder.
        dynamic_size: let the sides of pictures vary; else they are those of the settings.
        name: of the program.
        model_config: kept in the bundle; None takes the configurations of the components.
        checkpoint: where the weights came from.
        notes: for the user.

    Raises:
        ConfigError: components that do not belong together; names both sizes.
    """
    second = None if text_encoder_2 is None else text_encoder_2.config
    check_components(text_encoder.config, unet.config, vae.config, second=second)
    latent_size = None if dynamic_size else settings.latent_size[0]
    tokens, steps = settings.prompt_tokens, settings.schedule.num_train_timesteps
    texts = [text_encoder_part(text_encoder, tokens, penultimate=second is not None)]
    configs = {TEXT_ENCODER: text_encoder.config.to_dict(), UNET: unet.config.to_dict(), "vae": vae.config.to_dict()}
    if text_encoder_2 is not None:
        texts.append(text_encoder_part(text_encoder_2, tokens, name=TEXT_ENCODER_2))
        configs[TEXT_ENCODER_2] = text_encoder_2.config.to_dict()
    parts = (
        *texts,
        _unet_part(unet, tokens=tokens, steps=steps, dynamic=dynamic_size),
        *vae_parts(vae, latent_size=latent_size),
    )
    return Program(
        name=name,
        kind="text_to_image",
        parts={part.name: part for part in parts},
        engines={part.name: part.name for part in parts},
        settings=settings,
        assets=assets,
        vectors=partial(make_prompt_vectors, settings, assets, origins or {}) if settings.tokenizer_files else None,
        model_config=model_config or configs,
        checkpoint=checkpoint,
        notes=notes,
    )
