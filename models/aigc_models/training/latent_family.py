"""Prepare the training of a UNet on the latents of a trained autoencoder (Rombach et al. 2022, section 3)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from aigc_models.data.image_data import ImageData
from aigc_models.data.kept_data import data_name
from aigc_models.evaluation.evaluation import DIGITS, held_out_part
from aigc_models.evaluation.quality import Metric, are_digits, image_quality
from aigc_models.evaluation.showcase import image_showcase
from aigc_models.families.unet import UNet
from aigc_models.families.vae import AutoencoderKL
from aigc_models.programs import unet_program
from aigc_models.sources.diffusers.load_component import LoadedComponent, open_vae
from aigc_models.torch_session import TorchSession
from aigc_models.training import recipes
from aigc_models.training.image_families import image_shape, images_to_train
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Measured, Prepared, loop_of
from aigc_models.training.tasks import UNetTask
from aigc_models.training.vae_family import latents_of
from aigc_models.weights.weights_file import unfinished
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.diffusion import DiffusionPipeline

__all__ = ["prepare_latent_unet"]

DRAWS = 8
"""Of noise and steps, over which the loss on held-out pictures is averaged."""
DECODED_AT_ONCE = 16


def prepare_latent_unet(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare a UNet on latents, which are encoded once: class-conditional, or unconditional for one class.

    Raises:
        InputError: no autoencoder, one that was not trained to its end or is for other pictures; unusable data.
        CheckpointError: a folder that holds none, or a damaged one.
    """
    loaded = _autoencoder(options.vae)
    vae = loaded.module
    images = images_to_train(data, options, partial(_unet_of, vae))
    size, channels, classes = image_shape(images)
    if channels != vae.config.in_channels:
        raise InputError(
            f"the pictures have {channels} channels, the autoencoder in {options.vae!r} takes {vae.config.in_channels}",
            hint=f"give --channels {vae.config.in_channels}, or an autoencoder that was trained on such pictures",
        )
    config, schedule = _unet_of(vae, size, classes), replace(recipes.digits_schedule(), clip_sample=False)
    loop = loop_of(recipes.unet_loop(config.sample_size), options)
    latents = _encoded(vae, images)
    task = UNetTask(config, loop, latents, schedule, recipes.CONDITION_DROPOUT, device=options.device)
    names = images.class_names if config.num_class_embeds is not None else None

    def draw(model: nn.Module, *labels: list[int], batch: int | None = None) -> Array:
        """Draw pictures, as the runtime does: latents, and what the decoder makes of them."""
        assert isinstance(model, UNet)
        program = unet_program(model, schedule, class_names=names)
        pipeline = make_pipeline(TorchSession(program.part), program.settings)
        assert isinstance(pipeline, DiffusionPipeline)
        return _decoded(vae, pipeline.generate(*labels, batch=batch, seed=0))

    def finish(model: nn.Module) -> Measured:
        metrics = _held_out_loss(task, model)
        if samples and data is None and are_digits((channels, size, size), len(images.class_names)):
            labels = [i % len(images.class_names) for i in range(samples)]
            metrics = (*metrics, *image_quality(draw(model, labels), np.array(labels, dtype=np.int64)))
        name = DIGITS if data is None else held_out_part(data_name(data))
        return Measured(metrics=metrics, samples=len(images.held_out), data=name)

    record: dict[str, Any] = {
        "family": "unet",
        "model": config.to_dict(),
        "schedule": to_json(schedule),
        "class_names": None if names is None else list(names),
        "latent_space": {
            "vae_sha256": loaded.tensors.sha256,
            "scaling_factor": vae.config.scaling_factor,
            "picture_shape": [channels, size, size],
        },
    }
    note = f"latents of {'x'.join(map(str, latents.train.shape[1:]))}, encoded once"
    return Prepared(
        task=task,
        loop=loop,
        record=record,
        notes=(*images.notes, note),
        data_sha256=latents.digest(),
        finish=finish,
        sample=lambda model: {
            ".png": image_showcase(partial(draw, model), None if names is None else len(images.class_names))
        },
    )


def _autoencoder(path: str | None) -> LoadedComponent[AutoencoderKL]:
    if path is None:
        raise InputError("no autoencoder was given", hint="train one by `aigc-export train vae`, and give --vae FOLDER")
    folder = Path(path)
    if (left := unfinished(folder)) is not None:
        raise InputError(
            f"the autoencoder in {path!r} stopped at step {left[0]:,} of {left[1]:,}, before its latents were measured",
            hint="go on with its training by --resume first",
        )
    return open_vae(folder)


def _unet_of(vae: AutoencoderKL, size: int, classes: int = 1) -> Any:
    """The recipe's UNet for the latents of pictures of a size.

    Raises:
        InputError: a size that the autoencoder does not halve, or of whose latents there is no UNet.
    """
    f = vae.config.downscale
    if size % f:
        raise InputError(
            f"size is {size}, and the autoencoder makes latents 1/{f} as wide",
            hint=f"must be a multiple of {f}: it was trained on {vae.config.sample_size}",
        )
    try:
        return recipes.unet_model(size // f, vae.config.latent_channels, classes)
    except InputError as err:
        raise InputError(
            f"size is {size}, of which the latents are {size // f} wide: no UNet of the recipe has that",
            hint=f"the autoencoder was trained on {vae.config.sample_size}",
        ) from err


def _encoded(vae: AutoencoderKL, images: ImageData) -> ImageData:
    """The images' latents in the place of the images: means, which are nearly all of a latent, times the factor."""
    factor = vae.config.scaling_factor
    train, held_out = (
        latents_of(vae, side)[0] * factor
        if len(side)
        else torch.empty(0, *latents_of(vae, images.train[:1])[0][0].shape)
        for side in (images.train, images.held_out)
    )
    return replace(images, train=train, held_out=held_out)


@torch.inference_mode()
def _decoded(vae: AutoencoderKL, latents: Array) -> Array:
    """[N, C, h, w] -> [N, P, H, W] in [-1, 1]."""
    given = torch.from_numpy(latents) / vae.config.scaling_factor
    parts = [vae.decode(some) for some in torch.split(given, DECODED_AT_ONCE)]
    pictures: Array = torch.cat(parts).clamp(-1, 1).numpy()
    return pictures


@torch.no_grad()
def _held_out_loss(task: UNetTask, model: nn.Module) -> tuple[Metric, ...]:
    """Average the loss on held-out latents over draws of noise; none where nothing is held out."""
    losses = [task.loss_on_held_out(model, seed) for seed in range(DRAWS)]
    known = [loss for loss in losses if loss is not None]
    return (Metric(name="held_out_loss", value=float(np.mean(known))),) if known else ()
