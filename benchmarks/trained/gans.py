"""A DCGAN on Fashion-MNIST, and a small StyleGAN2 on digits by the package's own recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from quant_entry import Entry
from torch import Tensor, nn

from aigc_models.families.dcgan import DCGANConfig, DCGANGenerator
from aigc_models.sources import resolve
from aigc_models.training import recipes
from aigc_models.training.families import train_family
from aigc_runtime.pipelines.gan_engines import SYNTHESIS
from trained.data import fashion
from trained.recipe import Recipe, Training

__all__ = ["DCGAN", "STYLEGAN2"]

LATENT = 64
EMA = 0.998
SETTLING = 100
"""Batches that norms' statistics are measured on again, for the averaged weights."""


class Discriminator(nn.Module):
    """DCGAN's other half: strided convolutions down to 4x4 pixels.

    Args:
        width: channels at the pictures' own size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 1, 32, 32] -> [B]."""
        score: Tensor = self.body(images).flatten()
        return score


def start_as_dcgan(module: nn.Module) -> None:
    """Weights of deviation 0.02, as the paper has it (section 4)."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(part.weight, 0.0, 0.02)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)


def generator_config(training: Training) -> DCGANConfig:
    """From one pixel to 32, four transposed convolutions."""
    width = training.width
    return DCGANConfig(channels=(LATENT, 4 * width, 2 * width, width, 1))


def train_dcgan(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """The non-saturating game of the paper; what is kept is a moving average of the generator."""
    torch.manual_seed(training.seed)
    rng = torch.Generator().manual_seed(training.seed)
    images = torch.from_numpy(fashion(training.size, rows=training.rows)[0])
    generator, discriminator = DCGANGenerator(generator_config(training)), Discriminator(training.width)
    for module in (generator, discriminator):
        start_as_dcgan(module)
    average = copy.deepcopy(generator).requires_grad_(False)
    sides = [
        torch.optim.Adam(m.parameters(), lr=training.learning_rate, betas=(0.5, 0.999))
        for m in (generator, discriminator)
    ]
    for _ in range(training.steps):
        real = images[torch.randint(len(images), (training.batch_size,), generator=rng)]
        made = generator(torch.randn(training.batch_size, LATENT, generator=rng))
        loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(made.detach())).mean()
        sides[1].zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        sides[1].step()
        sides[0].zero_grad(set_to_none=True)
        torch.autograd.backward(F.softplus(-discriminator(made)).mean())
        sides[0].step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), generator.parameters(), strict=True):
                mine.lerp_(theirs, 1 - EMA)
    settle(average, rng)
    torch.save(average.state_dict(), folder / "generator.pth")


@torch.no_grad()
def settle(generator: nn.Module, rng: torch.Generator) -> None:
    """Measure the statistics of norms anew, for averaged weights."""
    for part in generator.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.momentum = None
    generator.train()
    for _ in range(SETTLING):
        generator(torch.randn(64, LATENT, generator=rng))
    generator.eval()


def enter_dcgan(_training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """The state dict, which the product knows by its keys."""
    return Entry(program=resolve(str(folder / "generator.pth")))


def train_stylegan2(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """Train by `aigc-export train stylegan2` in Python, on the digits."""
    train_family(
        "stylegan2",
        output=folder / "model",
        size=training.size,
        width=training.width,
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
    )


def enter_stylegan2(_training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """The synthesis; the mapping, whose layers the product keeps float, stays PyTorch's."""
    return Entry(program=resolve(str(folder / "model")), part=SYNTHESIS)


DCGAN = Recipe(
    name="dcgan",
    about="DCGAN, Fashion-MNIST",
    training=Training(steps=2000, batch_size=32, learning_rate=4e-4, size=32, width=32, rows=1000),
    made_by=(Discriminator, start_as_dcgan, generator_config, train_dcgan, settle, LATENT, EMA, SETTLING),
    train=train_dcgan,
    enter=enter_dcgan,
)
STYLEGAN2 = Recipe(
    name="stylegan2",
    about="synthesis of a StyleGAN2, digits",
    training=Training(steps=2500, batch_size=16, learning_rate=2.5e-3, size=16, width=16),
    made_by=(train_stylegan2, recipes.stylegan2_model(16, 1, 10, 16)),
    train=train_stylegan2,
    enter=enter_stylegan2,
)
