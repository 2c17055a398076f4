"""The default recipes: Python functions that return full configurations. Each ends within ten minutes on two cores."""

from __future__ import annotations

from aigc_models.classifier import ClassifierConfig
from aigc_models.gan import DiscriminatorConfig, GeneratorConfig
from aigc_models.lm_config import LMConfig
from aigc_models.training.loop import LoopConfig
from aigc_models.unet import UNetConfig, digits_unet_config
from aigc_runtime.schedules import ScheduleConfig

__all__ = [
    "CONDITION_DROPOUT",
    "WINDOW",
    "classifier_loop",
    "classifier_model",
    "digits_schedule",
    "discriminator_model",
    "gan_loop",
    "gan_model",
    "lm_loop",
    "lm_model",
    "unet_loop",
    "unet_model",
]

WINDOW = 192
"""Bytes that the language model sees per training row."""

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


def lm_loop(steps: int = 3000) -> LoopConfig:
    """AdamW on rows of `WINDOW` bytes."""
    return LoopConfig(steps=steps, batch=16, learning_rate=2.5e-3, final_rate=0.05, save_every=250)


def unet_model() -> UNetConfig:
    """The digits' UNet."""
    return digits_unet_config()


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


def unet_loop(steps: int = 3000) -> LoopConfig:
    """AdamW with a moving average."""
    return LoopConfig(steps=steps, batch=64, learning_rate=2e-3, ema=0.995, save_every=250)


def gan_model() -> GeneratorConfig:
    """The digits' generator; upsampling before a convolution also has 8-bit kernels where ConvTranspose has none."""
    return GeneratorConfig(base_channels=24, upsampling="upsample_conv")


def discriminator_model() -> DiscriminatorConfig:
    """The digits' discriminator."""
    return DiscriminatorConfig()


def gan_loop(steps: int = 4000) -> LoopConfig:
    """Adam(0, 0.9) on both sides, hinge loss, a moving average of the generator."""
    return LoopConfig(steps=steps, batch=64, learning_rate=2e-4, final_rate=0.1, warmup=1, ema=0.995, save_every=500)


def classifier_model() -> ClassifierConfig:
    """The digits' judge."""
    return ClassifierConfig()


def classifier_loop(steps: int = 1200) -> LoopConfig:
    """AdamW with a little noise on the images."""
    return LoopConfig(steps=steps, batch=64, learning_rate=2e-3)
