"""An AutoencoderKL on Fashion-MNIST, and a diffusion UNet on its latents; both by the package's own recipes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from quant_entry import Entry
from quant_judges import PsnrJudge

from aigc_models.sources import resolve
from aigc_models.sources.diffusers.load_component import open_vae
from aigc_models.training import recipes
from aigc_models.training.families import train_family
from aigc_models.training.vae_family import latents_of
from aigc_runtime.pipelines.text_to_image_settings import MEAN, VAE_DECODER
from trained.data import fashion, fashion_folder
from trained.recipe import Recipe, Training

__all__ = ["LATENT_UNET", "VAE"]

MODEL = "model"
"""Folder of the checkpoint in the recipe's."""
CALIBRATED, JUDGED = 1000, 500
"""Pictures of which latents are made, at most."""


def train_vae(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """Train by `aigc-export train vae` in Python."""
    _train("vae", training, folder)


def enter_vae(training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """The decoder, which is what generates; calibrated on pictures that the encoder, in PyTorch, makes latents of."""
    program = resolve(str(folder / MODEL))
    pictures, _ = fashion(training.size, rows=CALIBRATED // 10)
    held_out, _ = fashion(training.size, rows=JUDGED // 10, held_out=True)
    latents, _ = latents_of(open_vae(folder / MODEL).module, torch.from_numpy(held_out))
    judge = PsnrJudge(rows={MEAN: latents.numpy()}, output="image")
    return Entry(program=program, part=VAE_DECODER, rows={"picture": pictures}, judge=judge)


def train_latent_unet(training: Training, folder: Path, needs: Mapping[str, Path]) -> None:
    """Train by `aigc-export train latent_unet` in Python."""
    _train("latent_unet", training, folder, vae=str(needs[VAE.name] / MODEL))


def enter_latent_unet(_training: Training, folder: Path, _needs: Mapping[str, Path]) -> Entry:
    """The UNet; its pictures are latents here."""
    return Entry(program=resolve(str(folder / MODEL)))


def _train(family: str, training: Training, folder: Path, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        train_family(
            family,
            output=folder / MODEL,
            data=fashion_folder(Path(place) / "fashion", training.rows),
            size=training.size,
            steps=training.steps,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            seed=training.seed,
            **options,
        )


VAE = Recipe(
    name="vae",
    about="decoder of an AutoencoderKL, Fashion-MNIST",
    training=Training(steps=900, batch_size=16, learning_rate=2e-3, size=32, width=16, rows=300),
    made_by=(train_vae, _train, recipes.vae_model(32)),
    train=train_vae,
    enter=enter_vae,
)
LATENT_UNET = Recipe(
    name="latent-unet",
    about="diffusion UNet on latents of 2x8x8",
    training=Training(steps=1500, batch_size=32, learning_rate=2e-3, size=32, width=24, rows=300),
    made_by=(train_latent_unet, _train, recipes.unet_model(8, 2)),
    train=train_latent_unet,
    enter=enter_latent_unet,
    needs=(VAE,),
)
