"""The tiny autoencoder: convolutions alone, taught by a large autoencoder whose latents it reads and writes.

Shapes: B batch, P picture channels, C latent channels, H height, W width of the picture, h = H / f, w = W / f.

Module and tensor names are those of the diffusers library's `AutoencoderTiny`, so that its weights load as they are.

References:
    Bohan 2023, "Tiny AutoEncoder for Stable Diffusion" (TAESD, its public README): the architecture, and that encoder
    and decoder are each taught by the latents of the large one.
    He et al. 2016: residual blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.tiny_vae_config import TinyVaeConfig
from aigc_models.families.unet_blocks import ACTIVATIONS
from aigc_runtime.errors import FeedError

__all__ = ["AutoencoderTiny", "TinyVaeConfig", "distillation_loss"]

CLAMP = 3.0
"""Latents are bent into this range by a hyperbolic tangent."""


class Activation(nn.Module):
    """An activation of `unet_blocks.ACTIVATIONS` as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return self.function(x)


class Block(nn.Module):
    """relu(conv(act(conv(act(conv(x))))) + x)."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            Activation(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
            Activation(activation),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, H, W] -> [B, n, H, W]."""
        return F.relu(self.conv(x) + x)


class Encoder(nn.Module):
    """A picture to its latent: [B, P, H, W] -> [B, C, h, w]."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        n = config.encoder_block_out_channels[0]
        layers: list[nn.Module] = []
        for level, blocks in enumerate(config.num_encoder_blocks):
            first = nn.Conv2d(config.in_channels, n, 3, padding=1)
            layers.append(nn.Conv2d(n, n, 3, padding=1, stride=2, bias=False) if level else first)
            layers += [Block(n, config.act_fn) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(n, config.latent_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, H, W], -1 to 1 -> [B, C, h, w]."""
        out: Tensor = self.layers((x + 1) / 2)
        return out


class Decoder(nn.Module):
    """A latent to its picture: [B, C, h, w] -> [B, P, H, W]."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        n, last = config.decoder_block_out_channels[0], len(config.num_decoder_blocks) - 1
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, n, 3, padding=1), Activation(config.act_fn)]
        for level, blocks in enumerate(config.num_decoder_blocks):
            layers += [Block(n, config.act_fn) for _ in range(blocks)]
            if level < last:
                layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(n, n, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(n, config.out_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, P, H, W], about -1 to 1."""
        out: Tensor = 2 * self.layers(CLAMP * torch.tanh(x / CLAMP)) - 1
        return out


class AutoencoderTiny(nn.Module):
    """The autoencoder. A latent is no distribution.

    Args:
        config: its configuration.
    """

    draws = False
    """Whether a latent is drawn from a distribution."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv: nn.Module | None = None
        self.post_quant_conv: nn.Module | None = None
        self.encoder_ends = ("encoder.layers.0", f"encoder.layers.{len(self.encoder.layers) - 1}")
        self.decoder_ends = ("decoder.layers.0", f"decoder.layers.{len(self.decoder.layers) - 1}")

    def encode(self, image: Tensor) -> Tensor:
        """Give a picture's latent.

        Args:
            image: [B, P, H, W], -1 to 1; both sides multiples of `config.downscale`.

        Returns:
            [B, C, h, w].

        Raises:
            FeedError: a side that cannot be halved at every level.
        """
        unit = self.config.downscale
        _, _, height, width = image.shape
        if height % unit or width % unit:
            raise FeedError(f"image is {height} high and {width} wide", hint=f"both sides must be multiples of {unit}")
        out: Tensor = self.encoder(image)
        return out

    def decode(self, latent: Tensor) -> Tensor:
        """Make the picture of a latent: [B, C, h, w] -> [B, P, H, W], about -1 to 1."""
        out: Tensor = self.decoder(latent)
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Encode, and decode: [B, P, H, W] -> [B, P, H, W]."""
        return self.decode(self.encode(image))


def distillation_loss(model: AutoencoderTiny, image: Tensor, latent: Tensor) -> Tensor:
    """Mean squared errors of the encoder to a teacher's latent, and of the decoded latent to the picture (TAESD).

    The published weights were taught with an adversarial term beside these, which takes a network of its own.

    Args:
        model: the pupil.
        image: [B, P, H, W], -1 to 1.
        latent: of the teacher, [B, C, h, w], as a diffusion model sees it.

    Returns:
        A scalar.
    """
    return F.mse_loss(model.encode(image), latent) + F.mse_loss(model.decode(latent), image)
