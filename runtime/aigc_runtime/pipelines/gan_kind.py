"""The kind `gan`: what a request of a bundle may ask for, and what is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.pipelines.arguments import fit
from aigc_runtime.pipelines.gan import CLASS_LABELS, LATENTS, GanPipeline
from aigc_runtime.pipelines.image_requests import IMAGE_METRIC, IMAGES, check_class_span, image_forms
from aigc_runtime.pipelines.kind import PipelineKind, Request, ResultForm, Verb
from aigc_runtime.pipelines.requests import check_arguments, number_check
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["GAN"]

_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "truncation": number_check("truncation", 0.0, math.inf),
    "seed": check_seed,
}


def _check(pipeline: GanPipeline) -> None:
    labels = pipeline.session.interface.input(CLASS_LABELS)
    if labels is not None:
        check_class_span(
            labels.low,
            labels.high,
            name=CLASS_LABELS,
            num_classes=pipeline.settings.num_classes,
            null_class=None,
        )


def _check_request(pipeline: GanPipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    check_arguments(GanPipeline.generate, request, arrays, checks=_CHECKS)
    settings = pipeline.settings
    return image_forms(
        request, arrays, labels=CLASS_LABELS, num_classes=settings.num_classes, shape=settings.sample_shape
    )


def _replay(pipeline: GanPipeline, request: Request) -> dict[str, Array]:
    return {IMAGES: pipeline.generate(**request)}


def _step(pipeline: GanPipeline) -> Callable[[], object]:
    """An image."""
    session = pipeline.session
    rows = fit(session, "batch", 1)
    feeds: dict[str, Array] = {
        LATENTS: np.zeros((rows, pipeline.settings.latent_size), np.float32),
        CLASS_LABELS: np.zeros(rows, np.int64),
    }
    return lambda: session.run(feeds)


def _units(_pipeline: GanPipeline) -> tuple[str, int]:
    return "image", 1


def _generate_once(pipeline: GanPipeline) -> object:
    return pipeline.generate([0])


def _verb() -> Verb:
    from aigc_runtime.pipelines.image_verb import GAN_VERB

    return GAN_VERB


GAN = PipelineKind(
    name="gan",
    settings=GanSettings,
    open=lambda program, roles, settings: GanPipeline(program, settings, roles),
    check=_check,
    check_request=_check_request,
    replay=_replay,
    metric=IMAGE_METRIC,
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
)
"""Draws images with the generator of a GAN."""
