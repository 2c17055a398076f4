"""The kind `gan`: what a request of a bundle may ask for, and what is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.ranges import MAX_COUNT
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.pipelines.arguments import fit
from aigc_runtime.pipelines.gan import CLASS_LABELS, LATENTS, GanPipeline
from aigc_runtime.pipelines.gan_request import MAX_PSI
from aigc_runtime.pipelines.image_requests import IMAGE_METRIC, IMAGES, check_class_span, image_forms
from aigc_runtime.pipelines.kind import PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.requests import check_arguments, integer_check, number_check
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["GAN"]

_ARRAYS = (LATENTS, "ws")


def _check(pipeline: GanPipeline) -> None:
    labels = pipeline.engines.first.interface.input(CLASS_LABELS)
    if labels is not None and pipeline.settings.num_classes is not None:
        check_class_span(
            labels.low,
            labels.high,
            name=CLASS_LABELS,
            num_classes=pipeline.settings.num_classes,
            null_class=None,
        )


def _checks(settings: GanSettings) -> Mapping[str, Callable[[Any], object]]:
    least, most = (0.0, math.inf) if settings.style is None else (-MAX_PSI, MAX_PSI)
    return {
        "batch": integer_check("batch", MAX_COUNT),
        "truncation": number_check("truncation", least, most),
        "seed": check_seed,
    }


def _check_request(pipeline: GanPipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    settings = pipeline.settings
    check_arguments(GanPipeline.generate, request, arrays, checks=_checks(settings), array_names=_ARRAYS)
    if request.get(CLASS_LABELS) is not None and settings.num_classes is None:
        raise ConfigError(f"request.{CLASS_LABELS} is given, num_classes is null", hint="leave it out")
    if settings.num_classes is not None and request.get(CLASS_LABELS) is None and "ws" not in arrays:
        raise ConfigError(f"the reference's request has no {CLASS_LABELS!r}", hint="one for each image")
    return image_forms(
        request, arrays, labels=CLASS_LABELS, num_classes=settings.num_classes, shape=settings.sample_shape
    )


def _check_arrays(_pipeline: GanPipeline, arrays: Results) -> None:
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim not in (2, 3) or not array.size:
            raise ConfigError(
                f"request.{name} is {array.dtype} {list(array.shape)}",
                hint="must be float32 with a row for each image",
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"request.{name} holds NaN or infinity", hint="must be finite")


def _replay(pipeline: GanPipeline, request: Request) -> dict[str, Array]:
    return {IMAGES: pipeline.generate(**request)}


def _step(pipeline: GanPipeline) -> Callable[[], object]:
    """An image: every engine once."""
    engines, settings = pipeline.engines, pipeline.settings
    rows = max(fit(session, "batch", 1) for session in (engines.first, engines.last))
    latents = np.zeros((rows, settings.latent_size), np.float32)
    labels = None if settings.num_classes is None else np.zeros(rows, np.int64)
    noise = [np.zeros((rows, 1, side, side), np.float32) for side in settings.noise_sides]

    def step() -> object:
        if (style := settings.style) is None:
            return engines.images(latents, labels, noise)
        ws = np.repeat(engines.styles(latents, labels)[:, None], style.layers, axis=1)
        return engines.images(ws, None, noise)

    return step


def _units(_pipeline: GanPipeline) -> tuple[str, int]:
    return "image", 1


def _generate_once(pipeline: GanPipeline) -> object:
    return pipeline.generate(None if pipeline.settings.num_classes is None else [0])


def _assets(settings: GanSettings) -> list[str]:
    return [] if settings.style is None else [settings.style.mean]


def _verb() -> Verb:
    from aigc_runtime.pipelines.gan_verb import GAN_VERB

    return GAN_VERB


GAN = PipelineKind(
    name="gan",
    settings=GanSettings,
    open=lambda program, roles, settings: GanPipeline(program, settings, roles),
    check=_check,
    check_request=_check_request,
    check_arrays=_check_arrays,
    replay=_replay,
    metric=IMAGE_METRIC,
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
    assets=_assets,
)
"""Draws images with the generator of a GAN."""
