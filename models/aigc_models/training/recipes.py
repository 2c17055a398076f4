"""The recipes: Python functions that return full configurations.

Without arguments they are those of the shipped models of that name, each of which ends within a quarter of an hour on
two cores.
Those of images follow from the data: size, channels, classes.
"""

from __future__ import annotations

from collections.abc import Callable

from aigc_models.families.classifier import ClassifierConfig
from aigc_models.families.gan import BASE_SIZE, DiscriminatorConfig, GeneratorConfig
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.srvgg import SRVGGNetConfig
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.discriminator import ResidualDiscriminatorConfig
from aigc_models.families.unet_config import UNetConfig
from aigc_models.families.vae_config import DOWN, UP, VaeConfig
from aigc_models.training.loop import LoopConfig
from aigc_runtime.errors import InputError
from aigc_runtime.generation.schedules import ScheduleConfig

__all__ = [
    "CONDITION_DROPOUT",
    "KL_WEIGHT",
    "UPSCALE",
    "UPSCALER_PATCH",
    "WINDOW",
    "classifier_loop",
    "classifier_model",
    "digits_schedule",
    "discriminator_model",
    "gan_loop",
    "gan_model",
    "lm_loop",
    "lm_model",
    "residual_discriminator_model",
    "stylegan2_loop",
    "stylegan2_model",
    "unet_loop",
    "unet_model",
    "upscaler_loop",
    "upscaler_model",
    "vae_loop",
    "vae_model",
]

WINDOW = 192
"""Bytes that the language model sees per training row."""

MAX_LOWEST = 15
"""Side of a UNet's lowest level, at most: it attends there from every pixel to every other."""
NORM_GROUPS = 8
"""Of every normalization of a UNet: widths are multiples of it."""
MAX_WIDTH = 384
"""Channels of a GAN's widest layer."""

STYLE_SIZE = 64
"""Z and W of a StyleGAN2 here."""
KL_WEIGHT = 1e-4
"""Of the mean KL term of a picture's number: latents near a normal distribution, hardly smoothed (Rombach 2022, G)."""
UPSCALE = 2
UPSCALER_PATCH = 32
"""Side of the small pictures that an upscaler is trained on."""

CONDITION_DROPOUT = 0.1
"""Rows trained without their class (Ho & Salimans 2022, section 4 uses 0.1 and 0.2)."""


def lm_model() -> LMConfig:
    """A modern byte-level model of 1.5 M parameters: RMSNorm, RoPE, SwiGLU, grouped-query attention."""
    return LMConfig(
        vocab_size=256,
        context_length=512,
        d_model=192,
        n_layers=4,
        n_heads=6,
        n_kv_heads=2,
        d_ff=448,
        tie_embeddings=True,
    )


def lm_loop() -> LoopConfig:
    """AdamW on rows of `WINDOW` bytes."""
    return LoopConfig(steps=3000, batch_size=16, learning_rate=2.5e-3, final_rate=0.05)


def unet_model(size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None) -> UNetConfig:
    """The digits' UNet, with more levels for larger images and more channels for colors.

    It attends on levels of at most 8x8 pixels, and on the lowest. One class is none: the model is unconditional.

    Raises:
        InputError: a size that cannot be halved down to such a level, or a width that groups cannot share; names the
            nearest that can.
    """
    levels = _levels(size, _unet_levels, "the UNet")
    width = width or (24 if channels == 1 else 32)
    if width % NORM_GROUPS:
        near = max(NORM_GROUPS, round(width / NORM_GROUPS) * NORM_GROUPS)
        raise InputError(
            f"width is {width}, which the UNet cannot have", hint=f"a multiple of {NORM_GROUPS}: --width {near}"
        )
    attends = [size >> level <= 8 or level == levels - 1 for level in range(levels)]
    return UNetConfig(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(width * min(level + 1, 4) for level in range(levels)),
        layers_per_block=1,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=width,
        num_class_embeds=classes + 1 if classes > 1 else None,
        null_class=classes if classes > 1 else None,
        norm_num_groups=NORM_GROUPS,
    )


def _unet_levels(size: int) -> int | None:
    deep = (n for n in range(8, 1, -1) if size % (1 << (n - 1)) == 0 and 4 <= size >> (n - 1) <= MAX_LOWEST)
    return next(deep, None)


def _gan_levels(size: int) -> int | None:
    levels = size.bit_length() - BASE_SIZE.bit_length()
    return levels if levels >= 1 and BASE_SIZE << levels == size else None


def _classifier_levels(size: int) -> int | None:
    return 2 if size % 4 == 0 and size >= 8 else None


def _levels(size: int, levels: Callable[[int], int | None], what: str) -> int:
    """The levels of a model, or the sizes nearest to `size` that it has."""
    if (found := levels(size)) is not None:
        return found
    smaller = next((n for n in range(size - 1, 7, -1) if levels(n)), None)
    larger = next((n for n in range(max(size, 7) + 1, 2 * max(size, 8) + 1) if levels(n)), None)
    nearest = " or ".join(f"--size {n}" for n in (smaller, larger) if n is not None)
    raise InputError(f"size is {size}, which {what} cannot have", hint=f"the nearest that it can: {nearest}")


def digits_schedule() -> ScheduleConfig:
    """A cosine schedule (Nichol & Dhariwal 2021, eq. 17): small images need less noise than the linear one adds.

    The velocity is predicted (Salimans & Ho 2022, section 4): where the signal is almost gone, x_0 from a predicted
    epsilon divides by it, and the smallest error of an engine becomes a different picture.
    """
    return ScheduleConfig(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=True,
    )


def unet_loop(size: int = 16) -> LoopConfig:
    """AdamW with a moving average; larger images in smaller batches, at a lower rate."""
    rate = 2e-3 if size < 24 else 1e-3 if size < 48 else 5e-4
    return LoopConfig(steps=3000, batch_size=_image_batch(size), learning_rate=rate, ema=0.995)


def _image_batch(size: int) -> int:
    return 64 if size < 24 else 32 if size < 48 else 16


def gan_model(size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None) -> GeneratorConfig:
    """The digits' generator, with upsampling before a convolution.

    Every doubling of the size adds a block with twice the channels, up to `MAX_WIDTH`.

    Raises:
        InputError: a size that is no power of two of at least 8; names the nearest.
    """
    levels = _levels(size, _gan_levels, "the GAN")
    return GeneratorConfig(
        image_size=size,
        image_channels=channels,
        num_classes=classes,
        base_channels=width or min(24 if channels == 1 else 32, MAX_WIDTH >> levels),
        upsampling="upsample_conv",
    )


def discriminator_model(
    size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None
) -> DiscriminatorConfig:
    """The digits' discriminator, grown like the generator and twice as wide."""
    levels = _levels(size, _gan_levels, "the GAN")
    return DiscriminatorConfig(
        image_size=size,
        image_channels=channels,
        num_classes=classes,
        base_channels=2 * width if width else min(48, MAX_WIDTH >> levels),
    )


def gan_loop(size: int = 16) -> LoopConfig:
    """Adam(0, 0.9) on both sides, hinge loss, a moving average of the generator."""
    batch = _image_batch(size)
    return LoopConfig(steps=4000, batch_size=batch, learning_rate=2e-4, final_rate=0.1, warmup=1, ema=0.995)


def stylegan2_model(size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None) -> StyleGAN2Config:
    """A small StyleGAN2: as many channels at the last side as `width` says, twice as many below.

    A mapping of two layers is enough for few classes of small images (Karras et al. 2020, "Training Generative
    Adversarial Networks with Limited Data", has two for CIFAR-10). One class is none.

    Raises:
        InputError: a size that is no power of two of at least 8; names the nearest.
    """
    return StyleGAN2Config(
        z_size=STYLE_SIZE,
        w_size=STYLE_SIZE,
        num_classes=classes if classes > 1 else None,
        mapping_layers=2,
        channels=_style_channels(size, width),
        image_channels=channels,
    )


def residual_discriminator_model(
    size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None
) -> ResidualDiscriminatorConfig:
    """The discriminator that belongs to `stylegan2_model`, as wide as the generator."""
    return ResidualDiscriminatorConfig(
        channels=_style_channels(size, width), image_channels=channels, num_classes=classes if classes > 1 else None
    )


def _style_channels(size: int, width: int | None) -> tuple[int, ...]:
    width = width or 32
    return (2 * width,) * _levels(size, _gan_levels, "the GAN") + (width,)


def stylegan2_loop(size: int = 16) -> LoopConfig:
    """Adam(0, 0.99) at a constant rate, as the paper has it, and a moving average of the generator.

    Gradients are clipped where they are far beyond the usual alone.
    """
    return LoopConfig(
        steps=8000,
        batch_size=min(32, _image_batch(size)),
        learning_rate=2.5e-3,
        final_rate=1.0,
        warmup=1,
        max_grad_norm=100.0,
        ema=0.998,
    )


def classifier_model(
    size: int = 16, channels: int = 1, classes: int = 10, width: int | None = None
) -> ClassifierConfig:
    """The classifier of digits.

    Raises:
        InputError: a size that is no multiple of 4.
    """
    _levels(size, _classifier_levels, "the classifier")
    width = width or 24
    return ClassifierConfig(
        image_size=size, image_channels=channels, num_classes=classes, channels=(width, 2 * width), features=2 * width
    )


def classifier_loop() -> LoopConfig:
    """AdamW with a little noise on the images."""
    return LoopConfig(steps=1200, batch_size=64, learning_rate=2e-3)


def upscaler_model(channels: int = 3, scale: int = UPSCALE) -> SRVGGNetConfig:
    """An SRVGGNetCompact of 8 convolutions: a tenth of the work for a pixel that Real-ESRGAN's smallest takes."""
    return SRVGGNetConfig(channels=channels, num_feat=32, num_conv=8, upscale=scale)


def upscaler_loop() -> LoopConfig:
    """Adam(0.9, 0.99) as in ESRGAN, with a moving average."""
    return LoopConfig(steps=1500, batch_size=8, learning_rate=1e-3, ema=0.995)


def vae_model(size: int = 16, channels: int = 1) -> VaeConfig:
    """An autoencoder whose latents are a quarter as wide as the pictures, or half, as a UNet can be trained on them.

    Raises:
        InputError: a size of whose quarter and half no UNet has; names the nearest.
    """
    factor = _levels(size, _vae_downscale, "an autoencoder")
    sizes = tuple(16 * min(level + 1, 2) for level in range(factor.bit_length()))
    return VaeConfig(
        in_channels=channels,
        out_channels=channels,
        latent_channels=4 if channels == 3 else 2,
        down_block_types=(DOWN,) * len(sizes),
        up_block_types=(UP,) * len(sizes),
        block_out_channels=sizes,
        norm_num_groups=8,
        sample_size=size,
    )


def _vae_downscale(size: int) -> int | None:
    return next((f for f in (4, 2) if size % f == 0 and size >= 8 * f and _unet_levels(size // f) is not None), None)


def vae_loop(size: int = 16) -> LoopConfig:
    """Adam with a moving average; larger pictures in smaller batches."""
    return LoopConfig(steps=1500, batch_size=max(8, _image_batch(size) // 2), learning_rate=2e-3, ema=0.995)
