"""A class-conditional GAN: generator, projection discriminator, losses and the min-max step.

Shapes: B batch, Z latent size, C channels, H height, W width, K classes, F discriminator features.

References:
    Goodfellow et al. 2014, "Generative Adversarial Nets": value function eq. 1, non-saturating loss section 3.
    Radford et al. 2016, "Unsupervised Representation Learning with DCGAN": section 3.
    Odena et al. 2016, "Deconvolution and Checkerboard Artifacts": resize-convolution.
    Miyato et al. 2018, "Spectral Normalization for GANs": hinge loss eq. 16 and 17.
    Miyato & Koyama 2018, "cGANs with Projection Discriminator": eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc_models.families.layers import config_from_dict, config_to_dict, require_one_of, require_positive
from aigc_runtime.errors import ConfigError

__all__ = [
    "GAN_LOSSES",
    "Discriminator",
    "DiscriminatorConfig",
    "GanLoss",
    "Generator",
    "GeneratorConfig",
    "hinge_loss",
    "min_max_step",
    "non_saturating_loss",
]

BASE_SIZE = 4
"""Side of the first feature map; every block doubles it."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """A generator's configuration.

    Attributes:
        image_size: side of the square image, a power of two of at least 8.
        image_channels: channels of the image.
        latent_size: Z.
        num_classes: K.
        class_embedding_size: size of the class embedding joined to the latents.
        base_channels: channels of the last block; each block before it has twice as many.
        upsampling: `conv_transpose` (Radford 2016) or `upsample_conv` (Odena 2016).
    """

    image_size: int = 16
    image_channels: int = 1
    latent_size: int = 64
    num_classes: int = 10
    class_embedding_size: int = 32
    base_channels: int = 32
    upsampling: Literal["conv_transpose", "upsample_conv"] = "conv_transpose"

    def __post_init__(self) -> None:
        require_positive(
            "GeneratorConfig",
            image_size=self.image_size,
            image_channels=self.image_channels,
            latent_size=self.latent_size,
            num_classes=self.num_classes,
            class_embedding_size=self.class_embedding_size,
            base_channels=self.base_channels,
        )
        require_one_of("GeneratorConfig", "upsampling", self.upsampling, ("conv_transpose", "upsample_conv"))
        _levels("GeneratorConfig", self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """A discriminator's configuration.

    Attributes:
        image_size: side of the square image, a power of two of at least 8.
        image_channels: channels of the image.
        num_classes: K.
        base_channels: channels of the first convolution; each downsampling doubles them.
    """

    image_size: int = 16
    image_channels: int = 1
    num_classes: int = 10
    base_channels: int = 48

    def __post_init__(self) -> None:
        require_positive(
            "DiscriminatorConfig",
            image_size=self.image_size,
            image_channels=self.image_channels,
            num_classes=self.num_classes,
            base_channels=self.base_channels,
        )
        _levels("DiscriminatorConfig", self.image_size)


def _levels(owner: str, image_size: int) -> int:
    """Doublings from `BASE_SIZE` to `image_size`."""
    levels = image_size.bit_length() - BASE_SIZE.bit_length()
    if levels < 1 or BASE_SIZE << levels != image_size:
        raise ConfigError(f"{owner}.image_size is {image_size}", hint="must be a power of two of at least 8")
    return levels


class Generator(nn.Module):
    """Latents and class labels -> image in [-1, 1].

    Args:
        config: its configuration.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        levels = _levels("GeneratorConfig", config.image_size)
        channels = [config.base_channels << (levels - level) for level in range(levels + 1)]
        self.class_embedding = nn.Embedding(config.num_classes, config.class_embedding_size)
        self.project = nn.Linear(config.latent_size + config.class_embedding_size, channels[0] * BASE_SIZE**2)
        self.norm_in = nn.BatchNorm2d(channels[0])
        self.blocks = nn.ModuleList(
            _upsampling_block(config.upsampling, n_in, n_out) for n_in, n_out in pairwise(channels)
        )
        self.to_image = nn.Conv2d(channels[-1], config.image_channels, 3, padding=1)

    def forward(self, latents: Tensor, class_labels: Tensor) -> Tensor:
        """Generate images from latents and labels.

        Args:
            latents: [B, Z] float, standard normal.
            class_labels: [B] int64 in [0, K).

        Returns:
            [B, C, H, W] in [-1, 1].
        """
        joined = torch.cat([latents, self.class_embedding(class_labels)], dim=1)
        x = self.project(joined).unflatten(1, (-1, BASE_SIZE, BASE_SIZE))
        x = F.relu(self.norm_in(x))
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.to_image(x))


def _upsampling_block(kind: str, n_in: int, n_out: int) -> nn.Sequential:
    """[B, n_in, H, W] -> [B, n_out, 2H, 2W]; no bias before a BatchNorm, which has its own."""
    up: list[nn.Module]
    if kind == "conv_transpose":
        up = [nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, bias=False)]
    else:
        up = [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)]
    return nn.Sequential(*up, nn.BatchNorm2d(n_out), nn.ReLU())


class Discriminator(nn.Module):
    """Image and class labels -> logit, with spectral normalization (Miyato 2018) and class projection.

    Args:
        config: its configuration.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        levels = _levels("DiscriminatorConfig", config.image_size)
        n = config.base_channels
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(config.image_channels, n, 3, padding=1)), nn.LeakyReLU(0.2)]
        for _ in range(levels):
            layers += [spectral_norm(nn.Conv2d(n, 2 * n, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            n *= 2
        self.features = nn.Sequential(*layers)
        self.linear = spectral_norm(nn.Linear(n, 1))
        self.class_embedding = spectral_norm(nn.Embedding(config.num_classes, n))

    def forward(self, image: Tensor, class_labels: Tensor) -> Tensor:
        """Logits f(x, y) = y^T V phi(x) + psi(phi(x)) (Miyato & Koyama 2018, eq. 3).

        Args:
            image: [B, C, H, W] in [-1, 1].
            class_labels: [B] int64 in [0, K).

        Returns:
            [B] logits, large where the image looks real.
        """
        phi_BF = self.features(image).sum(dim=(2, 3))
        psi_B: Tensor = self.linear(phi_BF).squeeze(1)
        projection: Tensor = (self.class_embedding(class_labels) * phi_BF).sum(dim=1)
        return psi_B + projection


@dataclass(frozen=True, kw_only=True)
class GanLoss:
    """The two sides of the game, as functions of logits.

    Attributes:
        discriminator: (real logits [B], fake logits [B]) -> scalar to minimize.
        generator: fake logits [B] -> scalar to minimize.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    # -log D(x) - log(1 - D(G(z))) with D = sigmoid(logit); softplus(-l) = -log sigmoid(l) never overflows.
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


non_saturating_loss = GanLoss(
    discriminator=_non_saturating_discriminator, generator=lambda fake: F.softplus(-fake).mean()
)
"""Goodfellow 2014: D maximizes eq. 1; G maximizes log D(G(z)) (section 3), which does not saturate."""

hinge_loss = GanLoss(discriminator=_hinge_discriminator, generator=lambda fake: -fake.mean())
"""Miyato 2018, eq. 16 (discriminator) and 17 (generator)."""

GAN_LOSSES: dict[str, GanLoss] = {"non_saturating": non_saturating_loss, "hinge": hinge_loss}


def min_max_step(
    generator: Generator,
    discriminator: Discriminator,
    generator_optimizer: torch.optim.Optimizer,
    discriminator_optimizer: torch.optim.Optimizer,
    *,
    images: Tensor,
    class_labels: Tensor,
    loss: GanLoss,
    rng: torch.Generator,
    max_grad_norm: float,
) -> tuple[float, float]:
    """One update of each side: min over G, max over D (Goodfellow 2014, algorithm 1 with k = 1).

    Args:
        generator: G.
        discriminator: D.
        generator_optimizer: of G's parameters.
        discriminator_optimizer: of D's parameters.
        images: [B, C, H, W] real images in [-1, 1].
        class_labels: [B] their classes.
        loss: the two sides of the game.
        rng: source of latents and classes; on the CPU whatever the device is, so that every device trains alike.
        max_grad_norm: each side's gradient is clipped to this norm.

    Returns:
        (discriminator loss, generator loss) before the update of each.
    """
    batch, config = images.shape[0], generator.config

    def draw() -> tuple[Tensor, Tensor]:
        latents = torch.randn(batch, config.latent_size, generator=rng)
        labels = torch.randint(config.num_classes, (batch,), generator=rng)
        return latents.to(images.device), labels.to(images.device)

    latents, labels = draw()
    with torch.no_grad():
        fake = generator(latents, labels)
    d_loss = loss.discriminator(discriminator(images, class_labels), discriminator(fake, labels))
    discriminator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(d_loss)
    nn.utils.clip_grad_norm_(discriminator.parameters(), max_grad_norm)
    discriminator_optimizer.step()

    latents, labels = draw()
    g_loss = loss.generator(discriminator(generator(latents, labels), labels))
    generator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(g_loss)
    nn.utils.clip_grad_norm_(generator.parameters(), max_grad_norm)
    generator_optimizer.step()
    return d_loss.item(), g_loss.item()
