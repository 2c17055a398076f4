"""Make the program of a latent diffusion model from text to pictures: text encoder, UNet, and both halves of a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aigc_models.families.clip_text import ClipText
from aigc_models.families.latent_diffusion import check_components
from aigc_models.families.unet import UNet
from aigc_models.families.vae import AutoencoderKL, decode, encode
from aigc_models.program import Part, Program, QuantHints
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
    TEXT_ENCODER,
    TIMESTEP_COND,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    TextToImageSettings,
)

__all__ = ["text_encoder_part", "text_to_image_program", "vae_parts"]

MAX_BATCH = 64
SIDES = ("height", "width")
"""The dimensions of a picture, or of latents, that may vary."""


class _TextEncoder(nn.Module):
    """Tokens to the states that the UNet attends to."""

    def __init__(self, model: ClipText) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        """[B, T] -> [B, T, X]."""
        return (self.model(input_ids),)


class _Unet(nn.Module):
    """The UNet without classes."""

    def __init__(self, model: UNet) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sample: Tensor, timestep: Tensor, context: Tensor, timestep_cond: Tensor | None = None
    ) -> tuple[Tensor]:
        """([B, C, h, w], [B], [B, T, X], [B, E] where the time has a condition) -> [B, C, h, w]."""
        return (self.model(sample, timestep, None, context, timestep_cond),)


class _Decode(nn.Module):
    """The half of the VAE that makes pictures, and no weight of the other."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        """[B, C, h, w] -> [B, P, H, W]."""
        return (decode(latent, self.decoder, self.post_quant_conv),)


class _Encode(nn.Module):
    """The half of the VAE that reads pictures, and no weight of the other."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, H, W] -> mean and deviation [B, C, h, w]."""
        mean, logvar = encode(image, self.encoder, self.quant_conv)
        return mean, torch.exp(0.5 * logvar)


def text_encoder_part(model: ClipText, tokens: int, *, name: str = TEXT_ENCODER) -> Part:
    """Make the part of a text encoder.

    Args:
        model: the encoder.
        tokens: T, which every prompt is filled up to, as the model was trained.
        name: of the part.
    """
    config = model.config
    return Part(
        name=name,
        module=_TextEncoder(model).eval(),
        interface=Interface(
            inputs=(TensorSpec(name=INPUT_IDS, dtype="int64", shape=("batch", tokens), low=0, high=config.vocab_size),),
            outputs=(TensorSpec(name=CONTEXT, dtype="float32", shape=("batch", tokens, config.hidden_size)),),
            dims=(DimSpec(name="batch", max=2 * MAX_BATCH),),
        ),
    )


def _unet_part(model: UNet, *, tokens: int, steps: int, dynamic: bool) -> Part:
    config = model.config
    assert config.cross_attention_dim is not None
    sides: tuple[Size, Size] = SIDES if dynamic else (config.sample_size, config.sample_size)
    dims = [DimSpec(name="batch", max=2 * MAX_BATCH)]
    if dynamic:
        dims += [DimSpec(name=n, min=config.min_size, multiple_of=config.multiple_of) for n in SIDES]
    inputs = [
        _spec(SAMPLE, config.in_channels, sides),
        TensorSpec(name=TIMESTEP, dtype="float32", shape=("batch",)),
        TensorSpec(name=CONTEXT, dtype="float32", shape=("batch", tokens, config.cross_attention_dim)),
    ]
    if config.time_cond_proj_dim is not None:
        inputs.append(TensorSpec(name=TIMESTEP_COND, dtype="float32", shape=("batch", config.time_cond_proj_dim)))
    return Part(
        name=UNET,
        module=_Unet(model).eval(),
        interface=Interface(
            inputs=tuple(inputs),
            outputs=(_spec(MODEL_OUTPUT, config.out_channels, sides),),
            dims=tuple(dims),
        ),
        example_ranges={TIMESTEP: (0, steps)},
        hints=QuantHints(sensitive=("conv_in", "conv_out")),
    )


def vae_parts(
    vae: AutoencoderKL,
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
        hints=QuantHints(sensitive=("post_quant_conv", "decoder.conv_in", "decoder.conv_out")),
    )
    encoder = Part(
        name=VAE_ENCODER,
        module=_Encode(vae).eval(),
        interface=Interface(
            inputs=(_spec(picture, config.in_channels, wide),),
            outputs=tuple(_spec(name, config.latent_channels, halved) for name in (MEAN, STD)),
            dims=of_pictures,
        ),
        hints=QuantHints(sensitive=("encoder.conv_in", "encoder.conv_out", "quant_conv")),
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
    vae: AutoencoderKL,
    settings: TextToImageSettings,
    assets: Mapping[str, bytes],
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
        settings: of the pipeline.
        assets: the files of its tokenizer.
        dynamic_size: let the sides of pictures vary; else they are those of the settings.
        name: of the program.
        model_config: kept in the bundle; None takes the three configurations.
        checkpoint: where the weights came from.
        notes: for the user.

    Raises:
        ConfigError: components that do not belong together; names both sizes.
    """
    check_components(text_encoder.config, unet.config, vae.config)
    latent_size = None if dynamic_size else settings.latent_size[0]
    parts = (
        text_encoder_part(text_encoder, settings.prompt_tokens),
        _unet_part(
            unet, tokens=settings.prompt_tokens, steps=settings.schedule.num_train_timesteps, dynamic=dynamic_size
        ),
        *vae_parts(vae, latent_size=latent_size),
    )
    configs = {
        TEXT_ENCODER: text_encoder.config.to_dict(),
        UNET: unet.config.to_dict(),
        "vae": vae.config.to_dict(),
    }
    return Program(
        name=name,
        kind="text_to_image",
        parts={part.name: part for part in parts},
        engines={part.name: part.name for part in parts},
        settings=settings,
        assets=assets,
        model_config=model_config or configs,
        checkpoint=checkpoint,
        notes=notes,
    )
