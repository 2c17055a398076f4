"""Prepare the trainings on images: diffusion UNet, GAN and classifier, in the size and channels of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from aigc_models.data.image_data import ImageData, digits, load_images
from aigc_models.data.images import parse_background
from aigc_models.data.kept_data import data_name
from aigc_models.evaluation.evaluation import DIGITS, held_out_part
from aigc_models.evaluation.metrics import class_accuracy
from aigc_models.evaluation.quality import Metric, are_digits, image_quality
from aigc_models.evaluation.showcase import image_showcase
from aigc_models.families.classifier import Classifier
from aigc_models.families.gan import Generator, hinge_loss
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.families.unet import UNet
from aigc_models.gan_programs import stylegan2_program
from aigc_models.program import Program
from aigc_models.programs import gan_program, unet_program
from aigc_models.torch_session import open_torch
from aigc_models.training import recipes
from aigc_models.training.options import TrainOptions
from aigc_models.training.prepared import Measured, Prepared, loop_of
from aigc_models.training.stylegan2_task import Regularization, StyleGAN2Task
from aigc_models.training.tasks import ClassifierTask, GanTask, UNetTask, reestimate_batch_norm
from aigc_runtime.errors import InputError
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.pipelines import make_pipeline

__all__ = [
    "image_shape",
    "images_to_train",
    "prepare_classifier",
    "prepare_gan",
    "prepare_stylegan2",
    "prepare_unet",
]

SAMPLE_BATCHES, FINAL_BATCHES = 5, 50
"""Of 128 images, on which BatchNorm statistics are measured again; fewer of images larger than the digits."""


def prepare_unet(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare a UNet: class-conditional, or unconditional for one class.

    Raises:
        InputError: unusable data or options.
    """
    images = images_to_train(data, options, recipes.unet_model)
    config = recipes.unet_model(*image_shape(images), options.width)
    schedule, loop = recipes.digits_schedule(), loop_of(recipes.unet_loop(config.sample_size), options)
    names = images.class_names if config.num_class_embeds is not None else None
    task = UNetTask(config, loop, images, schedule, recipes.CONDITION_DROPOUT, device=options.device)
    record: dict[str, Any] = {"family": "unet", "model": config.to_dict(), "schedule": to_json(schedule)}

    def program(model: nn.Module) -> Program:
        assert isinstance(model, UNet)
        return unet_program(model, schedule, class_names=names)

    return Prepared(
        task=task,
        loop=loop,
        record={**record, "class_names": None if names is None else list(names)},
        notes=images.notes,
        data_sha256=images.digest(),
        finish=lambda model: _quality(program(model), data, samples),
        sample=lambda model: _samples(program(model)),
    )


def prepare_gan(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare a GAN, class-conditional even for one class.

    Raises:
        InputError: unusable data or options.
    """
    images = images_to_train(data, options, recipes.gan_model)
    shape = (*image_shape(images), options.width)
    config, discriminator = recipes.gan_model(*shape), recipes.discriminator_model(*shape)
    loop = loop_of(recipes.gan_loop(config.image_size), options)
    task = GanTask(config, discriminator, loop, images, hinge_loss, device=options.device)

    batches = max(SAMPLE_BATCHES, FINAL_BATCHES * 16**2 // max(16, config.image_size) ** 2)

    def program(model: nn.Module, batches: int) -> Program:
        assert isinstance(model, Generator)
        reestimate_batch_norm(model, batches=batches, seed=options.seed)
        return gan_program(model, class_names=images.class_names)

    return Prepared(
        task=task,
        loop=loop,
        record={"family": "gan", "model": config.to_dict(), "class_names": list(images.class_names)},
        notes=images.notes,
        data_sha256=images.digest(),
        finish=lambda model: _quality(program(model, batches), data, samples),
        sample=lambda model: _samples(program(model, SAMPLE_BATCHES)),
    )


def prepare_stylegan2(data: Path | str | None, options: TrainOptions, samples: int) -> Prepared:
    """Prepare a StyleGAN2: class-conditional, or without classes for one.

    Raises:
        InputError: unusable data or options.
    """
    images = images_to_train(data, options, recipes.stylegan2_model)
    shape = (*image_shape(images), options.width)
    config, loop = recipes.stylegan2_model(*shape), loop_of(recipes.stylegan2_loop(shape[0]), options)
    task = StyleGAN2Task(
        config, recipes.residual_discriminator_model(*shape), loop, images, Regularization(), device=options.device
    )
    names = images.class_names if config.num_classes is not None else None

    def program(model: nn.Module) -> Program:
        assert isinstance(model, StyleGAN2)
        return stylegan2_program(model, class_names=names)

    return Prepared(
        task=task,
        loop=loop,
        record={
            "family": "stylegan2",
            "model": config.to_dict(),
            "class_names": None if names is None else list(names),
        },
        notes=images.notes,
        data_sha256=images.digest(),
        finish=lambda model: _quality(program(model), data, samples),
        sample=lambda model: _samples(program(model)),
    )


def prepare_classifier(data: Path | str | None, options: TrainOptions, _samples: int) -> Prepared:
    """Prepare a classifier, which is evaluated on the images held out.

    Raises:
        InputError: unusable data or options, one class, or nothing held out.
    """
    images = images_to_train(data, options, recipes.classifier_model)
    if len(images.class_names) < 2 or not len(images.held_out):
        raise InputError(
            f"the data have {len(images.class_names)} classes and {len(images.held_out)} pictures held out",
            hint="need two classes or more, one of them with at least 5 different pictures",
        )
    config = recipes.classifier_model(*image_shape(images), options.width)
    loop = loop_of(recipes.classifier_loop(), options)
    record = {"family": "classifier", "model": config.to_dict(), "class_names": list(images.class_names)}

    def finish(model: nn.Module) -> Measured:
        assert isinstance(model, Classifier)
        accuracy = class_accuracy(model, images.held_out.numpy(), images.held_out_labels.numpy())
        name = DIGITS if data is None else held_out_part(data_name(data))
        metric = Metric(name="held_out_accuracy", value=accuracy)
        return Measured(metrics=(metric,), samples=len(images.held_out), data=name)

    return Prepared(
        task=ClassifierTask(config, loop, images, device=options.device),
        loop=loop,
        record=record,
        notes=images.notes,
        data_sha256=images.digest(),
        finish=finish,
    )


def images_to_train(data: Path | str | None, options: TrainOptions, model: Callable[[int], object]) -> ImageData:
    """Load the images to train on: the digits, or the user's own.

    Args:
        data: a folder of pictures; None takes the digits.
        options: of which size, channels and background are used.
        model: the recipe's, which refuses a size that it cannot have.

    Raises:
        InputError: unusable data or options.
    """
    if options.size is not None:
        model(options.size)  # what no model can have is refused before anything is read
    if data is None:
        if options.background is not None:
            raise InputError(
                f"background is {options.background!r}", hint="the built-in digits have none: leave it out"
            )
        size, channels = options.size or 16, options.channels or 1
        kind = "" if channels == 1 else ", repeated as red, green and blue"
        images = digits(size, channels)
        return replace(images, notes=(f"1,797 built-in digits, 8x8 gray; enlarged to {size}x{size} (linear){kind}",))
    return load_images(
        data,
        size=options.size,
        channels=options.channels,
        background=None if options.background is None else parse_background(options.background),
    )


def image_shape(images: ImageData) -> tuple[int, int, int]:
    """Return size, channels and classes of a model for these images."""
    return images.train.shape[-1], images.train.shape[1], len(images.class_names)


def _quality(program: Program, data: Path | str | None, samples: int) -> Measured:
    """Measure the digits' metrics; a user's own images have no classifier here."""
    settings = program.settings
    if data is not None or samples == 0 or not are_digits(settings.sample_shape, settings.num_classes):
        return Measured()
    labels = [i % settings.num_classes for i in range(samples)]
    pipeline: Any = make_pipeline(open_torch(program), settings, program.engines)
    metrics = image_quality(pipeline.generate(labels, seed=0), np.array(labels, dtype=np.int64))
    return Measured(metrics=metrics, samples=samples, data=DIGITS)


def _samples(program: Program) -> dict[str, bytes]:
    """Draw samples; the runtime's own pipeline draws them."""
    pipeline: Any = make_pipeline(open_torch(program), program.settings, program.engines)
    return {".png": image_showcase(partial(pipeline.generate, seed=0), program.settings.num_classes)}
