"""The kind `diffusion`: what a request of a bundle may ask for, and what is timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.ranges import MAX_COUNT, MAX_GUIDANCE_SCALE, MAX_STEPS
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.samplers import SAMPLERS
from aigc_runtime.pipelines.arguments import fit
from aigc_runtime.pipelines.denoiser import CONTEXT_TOKENS
from aigc_runtime.pipelines.diffusion import (
    CLASS_LABELS,
    CONTEXT,
    NULL_CONTEXT,
    SAMPLE,
    TIMESTEP,
    DiffusionPipeline,
)
from aigc_runtime.pipelines.image_requests import IMAGE_METRIC, IMAGES, check_class_span, image_forms
from aigc_runtime.pipelines.kind import PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.limits import check_size
from aigc_runtime.pipelines.requests import check_arguments, integer_check, number_check
from aigc_runtime.pipelines.settings import DiffusionSettings

__all__ = ["DIFFUSION"]


def _sampler(value: object) -> None:
    if not isinstance(value, str) or value not in SAMPLERS:
        raise ConfigError(f"request.sampler is {value!r:.200}", hint=f"valid: {', '.join(SAMPLERS)}")


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "batch": integer_check("batch", MAX_COUNT),
    "steps": integer_check("steps", MAX_STEPS),
    "sampler": _sampler,
    "eta": number_check("eta", 0.0, 1.0),
    "guidance_scale": number_check("guidance_scale", 0.0, MAX_GUIDANCE_SCALE),
    "guidance_rescale": number_check("guidance_rescale", 0.0, 1.0),
    "seed": check_seed,
}


def _check(pipeline: DiffusionPipeline) -> None:
    settings, interface = pipeline.settings, pipeline.session.interface
    labels = interface.input(CLASS_LABELS)
    if labels is None:
        if settings.num_classes is not None:
            raise ConfigError(
                f"num_classes is {settings.num_classes}, the engine has no input {CLASS_LABELS!r}", hint="must be null"
            )
    elif settings.num_classes is None:
        raise ConfigError(
            f"num_classes is null, the engine has an input {CLASS_LABELS!r}", hint="say how many there are"
        )
    else:
        check_class_span(
            labels.low,
            labels.high,
            name=CLASS_LABELS,
            num_classes=settings.num_classes,
            null_class=settings.null_class,
        )
    scale = settings.default_guidance_scale
    if scale != 1.0 and settings.null_class is None and interface.input(CONTEXT) is None:
        raise ConfigError(
            f"default_guidance_scale is {scale:g}, and the model has no null_class", hint="must be 1: no guidance"
        )


def _check_request(pipeline: DiffusionPipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    check_arguments(DiffusionPipeline.generate, request, arrays, checks=_CHECKS, array_names=(CONTEXT, NULL_CONTEXT))
    settings = pipeline.settings
    shape = check_size(settings, pipeline.session.interface, request.get("size"))
    return image_forms(request, arrays, labels=CLASS_LABELS, num_classes=settings.num_classes, shape=shape)


def _check_arrays(_pipeline: DiffusionPipeline, arrays: Results) -> None:
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 3 or not array.size:
            raise ConfigError(
                f"request.{name} is {array.dtype} {list(array.shape)}", hint="must be float32 [N, T, X], not empty"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"request.{name} holds NaN or infinity", hint="must be finite")


def _replay(pipeline: DiffusionPipeline, request: Request) -> dict[str, Array]:
    return {IMAGES: pipeline.generate(**request)}


def _step(pipeline: DiffusionPipeline) -> Callable[[], object]:
    """A denoising step in the middle of the schedule."""
    session, settings = pipeline.session, pipeline.settings
    rows = fit(session, "batch", 1)
    c, h, w = settings.sample_shape
    feeds: dict[str, Array] = {
        SAMPLE: np.zeros((rows, c, fit(session, "height", h), fit(session, "width", w)), dtype=np.float32),
        TIMESTEP: np.full(rows, settings.schedule.num_train_timesteps // 2, dtype=np.float32),
    }
    if session.interface.input(CLASS_LABELS) is not None:
        feeds[CLASS_LABELS] = np.zeros(rows, dtype=np.int64)
    if (context := session.interface.input(CONTEXT)) is not None:
        feeds[CONTEXT] = np.repeat(_context(session, context), rows, axis=0)
    return lambda: session.run(feeds)


def _context(session: Session, spec: TensorSpec) -> Array:
    """Zeros for one prompt of 77 tokens, or of as many as the engine takes."""
    tokens = spec.shape[1]
    if isinstance(tokens, str):
        tokens = fit(session, tokens, CONTEXT_TOKENS)
    return np.zeros((1, tokens, int(spec.shape[2])), dtype=np.float32)


def _units(pipeline: DiffusionPipeline) -> tuple[str, int]:
    return "step", pipeline.settings.default_steps


def _generate_once(pipeline: DiffusionPipeline) -> object:
    session, settings = pipeline.session, pipeline.settings
    _, height, width = settings.sample_shape
    context = None if (spec := session.interface.input(CONTEXT)) is None else _context(session, spec)
    return pipeline.generate(
        None if settings.num_classes is None else [0],
        size=(fit(session, "height", height), fit(session, "width", width)),
        encoder_hidden_states=context,
        null_encoder_hidden_states=None if settings.default_guidance_scale == 1 else context,
    )


def _verb() -> Verb:
    from aigc_runtime.pipelines.image_verb import DIFFUSION_VERB

    return DIFFUSION_VERB


DIFFUSION = PipelineKind(
    name="diffusion",
    settings=DiffusionSettings,
    open=lambda program, roles, settings: DiffusionPipeline(program, settings, roles),
    check=_check,
    check_request=_check_request,
    check_arrays=_check_arrays,
    replay=_replay,
    metric=IMAGE_METRIC,
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
)
"""Draws images with a diffusion model."""
