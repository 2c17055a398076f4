"""The variational autoencoder of latent diffusion: pictures to latents and back.

Shapes: B batch, P picture channels, C latent channels, H height, W width of the picture, h = H / f, w = W / f.

Module and tensor names are those of the diffusers library's `AutoencoderKL`, so that its weights load as they are.

References:
    Rombach et al. 2022, "Latent Diffusion Models": section 3.1 and appendix G (the autoencoder).
    Kingma & Welling 2014, "Auto-Encoding Variational Bayes": appendix B (the KL term), section 2.4 (sampling).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_models.families.unet_blocks import Downsample, ResnetBlock, SelfAttention, Upsample
from aigc_models.families.vae_config import VaeConfig
from aigc_runtime.errors import ConfigError, FeedError

__all__ = [
    "AutoencoderKL",
    "Decoder",
    "Encoder",
    "VaeConfig",
    "decode",
    "encode",
    "kl_divergence",
    "sample_latent",
    "scaling_factor",
    "vae_loss",
]

EPS = 1e-6
"""Of every norm."""
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0
"""Bounds of the logarithm of the variance: beyond them its exponential is 0 or infinite in float32."""


def _resnet(config: VaeConfig, n_in: int, n_out: int) -> ResnetBlock:
    return ResnetBlock(
        n_in,
        n_out,
        time_size=None,
        groups=config.norm_num_groups,
        eps=EPS,
        dropout=0.0,
        activation=config.act_fn,
    )


class Level(nn.Module):
    """Residual blocks of one resolution, and a resampling behind them."""

    def __init__(self, config: VaeConfig, n_in: int, n_out: int, *, blocks: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, n_in if i == 0 else n_out, n_out) for i in range(blocks))
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] -> [B, n_out, H', W']."""
        for layers in (self.resnets, self.downsamplers, self.upsamplers):
            for layer in layers:
                x = layer(x)
        return x


class Middle(nn.Module):
    """Residual block, self-attention of one head, residual block."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        self.attentions = nn.ModuleList()
        if config.mid_block_add_attention:
            self.attentions.append(SelfAttention(channels, heads=1, groups=config.norm_num_groups, eps=EPS))
        self.resnets = nn.ModuleList(_resnet(config, channels, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


class Encoder(nn.Module):
    """A picture to the mean and the logarithm of the variance of its latent: [B, P, H, W] -> [B, 2 C, h, w]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        sizes = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, sizes[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        n = sizes[0]
        for level, size in enumerate(sizes):
            block = Level(config, n, size, blocks=config.layers_per_block)
            if level < len(sizes) - 1:
                block.downsamplers.append(Downsample(size, padding=0))
            self.down_blocks.append(block)
            n = size
        self.mid_block = Middle(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, sizes[-1], eps=EPS)
        self.conv_out = nn.Conv2d(sizes[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, H, W] -> [B, 2 C, h, w]."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class Decoder(nn.Module):
    """A latent to its picture: [B, C, h, w] -> [B, P, H, W]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        sizes = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, sizes[0], 3, padding=1)
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        n = sizes[0]
        for level, size in enumerate(sizes):
            block = Level(config, n, size, blocks=config.layers_per_block + 1)
            if level < len(sizes) - 1:
                block.upsamplers.append(Upsample(size))
            self.up_blocks.append(block)
            n = size
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, sizes[-1], eps=EPS)
        self.conv_out = nn.Conv2d(sizes[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, P, H, W]."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out


def encode(image: Tensor, encoder: nn.Module, quant_conv: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Run the half of an autoencoder that reads pictures; see `AutoencoderKL.encode`."""
    moments = encoder(image)
    mean, logvar = (moments if quant_conv is None else quant_conv(moments)).chunk(2, dim=1)
    return mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR)


def decode(latent: Tensor, decoder: nn.Module, post_quant_conv: nn.Module | None) -> Tensor:
    """Run the half of an autoencoder that makes pictures; see `AutoencoderKL.decode`."""
    out: Tensor = decoder(latent if post_quant_conv is None else post_quant_conv(latent))
    return out


class AutoencoderKL(nn.Module):
    """The autoencoder.

    Args:
        config: its configuration.
    """

    draws = True
    """Whether a latent is drawn from a distribution."""
    encoder_ends = ("encoder.conv_in", "encoder.conv_out", "quant_conv")
    decoder_ends = ("post_quant_conv", "decoder.conv_in", "decoder.conv_out")
    """Layers that few bits harm most."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv: nn.Module | None = nn.Conv2d(2 * c, 2 * c, 1) if config.use_quant_conv else None
        self.post_quant_conv: nn.Module | None = nn.Conv2d(c, c, 1) if config.use_post_quant_conv else None

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give the mean and the logarithm of the variance of a picture's latent.

        Args:
            image: [B, P, H, W], -1 to 1; both sides multiples of `config.downscale`.

        Returns:
            Both [B, C, h, w]; the second within `MIN_LOGVAR` and `MAX_LOGVAR`.

        Raises:
            FeedError: a side that cannot be halved at every level.
        """
        unit = self.config.downscale
        _, _, height, width = image.shape
        if height % unit or width % unit:
            raise FeedError(f"image is {height} high and {width} wide", hint=f"both sides must be multiples of {unit}")
        return encode(image, self.encoder, self.quant_conv)

    def decode(self, latent: Tensor) -> Tensor:
        """Make the picture of a latent: [B, C, h, w] -> [B, P, H, W], about -1 to 1."""
        return decode(latent, self.decoder, self.post_quant_conv)

    def forward(self, image: Tensor) -> Tensor:
        """Encode to the mean, and decode: [B, P, H, W] -> [B, P, H, W]."""
        return self.decode(self.encode(image)[0])


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), summed over a latent (Kingma & Welling 2014, appendix B).

    Args:
        mean: [B, C, h, w].
        logvar: [B, C, h, w].

    Returns:
        [B].
    """
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))


def sample_latent(mean: Tensor, logvar: Tensor, rng: torch.Generator) -> Tensor:
    """Draw z = mean + sigma epsilon (Kingma & Welling 2014, section 2.4).

    Args:
        mean: [B, C, h, w].
        logvar: the same.
        rng: source of epsilon, on any device: a CPU generator gives every device the same training.
    """
    noise = torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=rng.device).to(mean.device)
    return mean + (0.5 * logvar).exp() * noise


def vae_loss(image: Tensor, decoded: Tensor, mean: Tensor, logvar: Tensor, *, kl_weight: float) -> Tensor:
    """Mean absolute error of the decoded sample plus the weighted KL term (Rombach 2022, appendix G).

    The paper's perceptual term takes a network that was trained on other pictures, and is not part of it; its
    adversarial term is added by what trains with it.

    Args:
        image: [B, P, H, W], -1 to 1.
        decoded: the same, decoded of a latent that was drawn.
        mean: [B, C, h, w], of the latents.
        logvar: the same.
        kl_weight: of the KL term, which is averaged over the numbers of a picture.

    Returns:
        A scalar.
    """
    return F.l1_loss(decoded, image) + kl_weight * kl_divergence(mean, logvar).mean() / image[0].numel()


def scaling_factor(mean: Tensor, logvar: Tensor) -> float:
    """What latents are multiplied by so that their deviation is 1: 1 / sigma of all their numbers (appendix G).

    sigma^2 is that of the latents as they are drawn, Var(mean) + E[exp(logvar)], computed and not drawn.

    Args:
        mean: [N, C, h, w], of as many pictures as there are.
        logvar: the same.

    Raises:
        ConfigError: the latents are all the same.
    """
    variance = float(mean.double().var(correction=0) + logvar.double().exp().mean())
    if not 0 < variance < math.inf:
        raise ConfigError(f"the latents' variance is {variance}", hint="the autoencoder has learned nothing: train it")
    return 1 / math.sqrt(variance)
