"""Prepare the training of a variational autoencoder, whose checkpoint is read as diffusers' AutoencoderKL is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aigc_models.data.image_data import ImageData
from aigc_models.data.kept_data import data_name
from aigc_models.evaluation.evaluation import DIGITS, held_out_part
from aigc_models.evaluation.metrics import picture_psnr
from aigc_models.evaluation.quality import Metric
from aigc_models.families.vae import AutoencoderKL, kl_divergence, scaling_factor
from aigc_models.sources.diffusers.autoencoder import VAE_CLASS
from aigc_models.training import recipes
from aigc_models.training.image_families import image_shape, images_to_train
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Measured, Prepared, loop_of
from aigc_models.training.vae_task import VaeTask
from aigc_runtime.errors import InputError
from aigc_runtime.io.png import encode_png, image_grid

__all__ = ["latents_of", "prepare_vae"]

AT_ONCE = 64
"""Pictures that are encoded together."""
SHOWN = 8


def prepare_vae(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare an autoencoder; the scaling factor of its latents is measured at the end.

    Raises:
        InputError: unusable data or options, or nothing held out.
    """
    images = images_to_train(data, options, recipes.vae_model)
    size, channels, _ = image_shape(images)
    config, loop = recipes.vae_model(size, channels), loop_of(recipes.vae_loop(size), options)
    if not len(images.held_out):
        raise InputError("no picture is held out", hint="need at least 5 different pictures of one class")
    task = VaeTask(config, loop, images, recipes.KL_WEIGHT, gan_weight=options.gan_weight or 0.0, device=options.device)

    def finish(model: nn.Module) -> Measured:
        assert isinstance(model, AutoencoderKL)
        held_out = images.held_out[:samples]
        mean, logvar = latents_of(model, held_out)
        metrics = (
            Metric(name="reconstruction_psnr_db", value=_psnr(model, held_out, mean)),
            Metric(name="kl_of_a_latent", value=float(kl_divergence(mean, logvar).mean())),
        )
        factor = scaling_factor(*latents_of(model, images.train))
        name = DIGITS if data is None else held_out_part(data_name(data))
        return Measured(metrics=metrics, samples=len(held_out), data=name, record={"scaling_factor": factor})

    return Prepared(
        task=task,
        loop=loop,
        record={"_class_name": VAE_CLASS, **config.to_dict()},
        notes=images.notes,
        data_sha256=images.digest(),
        finish=finish,
        sample=lambda model: _drawn(model, images),
    )


@torch.inference_mode()
def latents_of(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pictures [N, P, H, W], a few at a time: means and logarithms of variances [N, C, h, w]."""
    pairs = [model.encode(some) for some in torch.split(images, AT_ONCE)]
    return torch.cat([mean for mean, _ in pairs]), torch.cat([logvar for _, logvar in pairs])


@torch.inference_mode()
def _psnr(model: AutoencoderKL, images: Tensor, latents: Tensor) -> float:
    """Mean PSNR of pictures that are decoded of the means of their latents, as they are written: in [-1, 1]."""
    parts = zip(torch.split(images, AT_ONCE), torch.split(latents, AT_ONCE), strict=True)
    values = [
        picture_psnr(image.numpy(), decoded.numpy(), peak=2.0)
        for some, latent in parts
        for image, decoded in zip(some, model.decode(latent).clamp(-1, 1), strict=True)
    ]
    return float(np.mean(values))


@torch.inference_mode()
def _drawn(model: nn.Module, images: ImageData) -> dict[str, bytes]:
    """Pictures that were held out, and below each what the autoencoder makes of it."""
    shown = images.held_out[:SHOWN]
    both = torch.cat([shown, model(shown).clamp(-1, 1)]).numpy()
    return {".png": encode_png(image_grid(both, columns=len(shown), scale=max(1, 64 // shown.shape[-1])))}
