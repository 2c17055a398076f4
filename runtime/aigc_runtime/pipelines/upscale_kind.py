"""The kind `upscale`: what a request of a bundle holds, how two results are compared, and what is timed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import check_count, fit
from aigc_runtime.pipelines.kind import Metric, PipelineKind, Request, ResultForm, Results, Verb
from aigc_runtime.pipelines.requests import check_arguments
from aigc_runtime.pipelines.upscale import IMAGE, UpscalePipeline, UpscaleSettings, check_overlap, check_picture

__all__ = ["UPSCALE"]

PICTURE = "picture"
"""The result of a request."""


def _check_request(pipeline: UpscalePipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    checks: Mapping[str, Callable[[Any], object]] = {
        "overlap": partial(check_overlap, settings=pipeline.settings),
        "tiles_at_once": partial(check_count, "tiles_at_once"),
    }
    if set(arrays) != {IMAGE}:
        raise ConfigError(
            f"the reference's request has the arrays {sorted(arrays)}", hint=f"{IMAGE!r} must be a .npy file of its own"
        )
    check_arguments(UpscalePipeline.generate, request, arrays, checks=checks, array_names=(IMAGE,))
    form = ResultForm(what="the enlarged picture", dtype="float32", shape=(None, None, None))
    return {PICTURE: form}


def _check_arrays(pipeline: UpscalePipeline, arrays: Results) -> None:
    image = arrays[IMAGE]
    if image.dtype != np.float32 or image.ndim != 3:
        raise ConfigError(
            f"request.{IMAGE} is {image.dtype} {list(image.shape)}",
            hint="must be float32 [H, W, channels]: of 8 bits, small differences would not be seen",
        )
    check_picture(image, pipeline.settings)


def _replay(pipeline: UpscalePipeline, request: Request) -> dict[str, Array]:
    return {PICTURE: pipeline.generate(**request)}


def _psnr(reference: Results, actual: Results) -> float:
    return psnr_db(reference[PICTURE], actual[PICTURE])


def _step(pipeline: UpscalePipeline) -> Callable[[], object]:
    """A tile."""
    settings, session = pipeline.settings, pipeline.session
    shape = (fit(session, "batch", 1), settings.channels, settings.tile, settings.tile)
    feeds: dict[str, Array] = {IMAGE: np.zeros(shape, np.float32)}
    return lambda: session.run(feeds)


def _units(_pipeline: UpscalePipeline) -> tuple[str, int]:
    return "tile", 1


def _generate_once(pipeline: UpscalePipeline) -> object:
    settings = pipeline.settings
    return pipeline.generate(np.zeros((settings.tile, settings.tile, settings.channels), np.uint8))


def _verb() -> Verb:
    from aigc_runtime.pipelines.upscale_verb import UPSCALE_VERB

    return UPSCALE_VERB


UPSCALE = PipelineKind(
    name="upscale",
    settings=UpscaleSettings,
    open=lambda program, roles, settings: UpscalePipeline(program, settings, roles),
    check_request=_check_request,
    check_arrays=_check_arrays,
    replay=_replay,
    metric=Metric(name="psnr_db", measure=_psnr, limit="min_psnr_db"),
    step=_step,
    units=_units,
    generate_once=_generate_once,
    verb=_verb,
)
"""Enlarges pictures, tile by tile."""
