"""The kind `text_to_image`: what a request of a bundle may ask for, and what is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import fit
from aigc_runtime.pipelines.denoiser import TIMESTEP
from aigc_runtime.pipelines.image_requests import IMAGE_METRIC, IMAGES
from aigc_runtime.pipelines.kind import PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.prompt_tokens import prompt_tokens
from aigc_runtime.pipelines.requests import check_arguments
from aigc_runtime.pipelines.text_readers import TextReaders
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_request import picture_size
from aigc_runtime.pipelines.text_to_image_settings import TextToImageSettings

__all__ = ["TEXT_TO_IMAGE"]

PICTURE, MASK, OUTPUT = "image", "mask", "output"
"""Arguments of `generate`."""


def _output(value: object) -> None:
    if value != IMAGES:
        raise ConfigError(
            f"request.{OUTPUT} is {value!r:.200}", hint=f"must be {IMAGES!r}: numbers that can be compared"
        )


_CHECKS: Mapping[str, Callable[[Any], object]] = {OUTPUT: _output}


def _check_request(pipeline: TextToImagePipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    check_arguments(TextToImagePipeline.generate, request, arrays, checks=_CHECKS, array_names=(PICTURE, MASK))
    given: dict[str, Array] = {}
    if PICTURE in arrays or MASK in arrays:
        if request.get("size") is None:
            raise ConfigError("the reference's request has a picture and does not say its size", hint="give size")
        # Of the same size, and as good as any other: the files themselves are judged when they are read.
        height, width = picture_size(pipeline.settings, pipeline.unet.interface, request["size"])
        stand_ins: dict[str, Array] = {
            PICTURE: np.zeros((height, width, 3), np.uint8),
            MASK: np.ones((height, width), np.bool_),
        }
        given = {name: stand_ins[name] for name in arrays}
    checked = pipeline.request(**{**request, **given})
    whole = (checked.count, 3, *checked.size)
    size = 4 * math.prod(whole)
    form = ResultForm(
        what=f"images of shape {list(whole)}", dtype="float32", shape=whole, min_bytes=size, max_bytes=size
    )
    return {IMAGES: form}


def _check_arrays(_pipeline: TextToImagePipeline, arrays: Results) -> None:
    for name, array in arrays.items():
        taken = {PICTURE: (np.uint8,), MASK: (np.uint8, np.bool_)}[name]
        if array.dtype not in taken:
            raise ConfigError(f"request.{name} is {array.dtype}", hint="must be uint8")


def _replay(pipeline: TextToImagePipeline, request: Request) -> dict[str, Array]:
    return {IMAGES: pipeline.generate(**{**request, OUTPUT: IMAGES})}


def _step(pipeline: TextToImagePipeline) -> Callable[[], object]:
    """A denoising step in the middle of the schedule, of one picture without guidance."""
    session, settings = pipeline.unet, pipeline.settings
    feeds: dict[str, Array] = {}
    for spec in session.interface.inputs:
        sizes = {"batch": 1, "height": settings.latent_size[0], "width": settings.latent_size[1]}
        shape = [
            size if isinstance(size, int) else fit(session, size, sizes.get(size, settings.prompt_tokens))
            for size in spec.shape
        ]
        feeds[spec.name] = np.zeros(shape, dtype=spec.dtype)
    feeds[TIMESTEP].fill(settings.schedule.num_train_timesteps // 2)
    return lambda: session.run(feeds)


def _units(pipeline: TextToImagePipeline) -> tuple[str, int]:
    return "step", pipeline.settings.default_steps


def _generate_once(pipeline: TextToImagePipeline) -> object:
    settings = pipeline.settings
    given: dict[str, Any] = {}
    if settings.takes_picture:
        given = {PICTURE: np.zeros((*settings.size, 3), np.uint8), MASK: np.ones(settings.size, np.bool_)}
    return pipeline.generate("a lighthouse at dusk", **given)


def _assets(settings: TextToImageSettings) -> Collection[str]:
    return settings.tokenizer_files


def _text_readers(settings: TextToImageSettings, assets: Mapping[str, bytes]) -> TextReaders:
    return TextReaders(prompts={role: tokens.encode for role, tokens in prompt_tokens(settings, assets).items()})


def _verb() -> Verb:
    from aigc_runtime.pipelines.text_to_image_verb import TEXT_TO_IMAGE_VERB

    return TEXT_TO_IMAGE_VERB


TEXT_TO_IMAGE = PipelineKind(
    name="text_to_image",
    settings=TextToImageSettings,
    open=lambda program, roles, settings: TextToImagePipeline(program, settings, roles),
    check_request=_check_request,
    check_arrays=_check_arrays,
    replay=_replay,
    metric=IMAGE_METRIC,
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
    assets=_assets,
    needs_text_vectors=lambda settings: bool(settings.tokenizer_files),
    text_readers=_text_readers,
)
"""Makes pictures from texts."""
