"""A request as it stands in a bundle: every argument by type and meaning, and how much it asks for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.ranges import MAX_COUNT, MAX_GUIDANCE_SCALE, MAX_STEPS, check_range
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.samplers import SAMPLERS
from aigc_runtime.pipelines import AnyPipeline
from aigc_runtime.pipelines.arguments import check_labels, check_number
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.embeddings import CONTEXT, NULL_CONTEXT
from aigc_runtime.pipelines.limits import check_image_count, check_numbers, check_size
from aigc_runtime.pipelines.text import TextPipeline

__all__ = [
    "ARRAY_ARGUMENTS",
    "MAX_REFERENCE_TOKENS",
    "check_request",
    "check_request_array",
    "image_shape",
    "request_sampling",
]

MAX_REFERENCE_TOKENS = 2**16
"""Tokens that the reference may ask for, all rows together."""

ARRAY_ARGUMENTS = (CONTEXT, NULL_CONTEXT)
"""Arguments of `generate` that are arrays: a bundle holds each of them as a .npy file, never as JSON."""

_CALLBACKS = ("self", "progress", "cancel")


def request_sampling(value: object) -> SamplingParams:
    """The sampling of a request, from an object with some of its fields.

    Raises:
        ConfigError: no object, or a field that sampling has not.
        InputError: a value that it does not take.
    """
    known = list(SamplingParams.__dataclass_fields__)
    if not isinstance(value, Mapping) or not value.keys() <= set(known):
        raise ConfigError(f"request.sampling is {value!r:.200}", hint=f"must be an object with some of {known}")
    return SamplingParams(**value)


def check_request_array(name: str, array: Array) -> None:
    """Refuse an array of a request that is not one of finite numbers, float32 [N, T, X].

    Raises:
        ConfigError: names the argument, what was found and what is expected.
    """
    if array.dtype != np.float32 or array.ndim != 3 or not array.size:
        raise ConfigError(
            f"request.{name} is {array.dtype} {list(array.shape)}", hint="must be float32 [N, T, X], not empty"
        )
    if not np.isfinite(array).all():
        raise ConfigError(f"request.{name} holds NaN or infinity", hint="must be finite")


def check_request(pipeline: AnyPipeline, request: Mapping[str, Any], arrays: Collection[str] = ()) -> int:
    """Refuse a request that the pipeline's `generate` would not take, or that asks for too much.

    Args:
        pipeline: its session need not be able to run.
        request: plain JSON keyword arguments of `generate`.
        arrays: names of the keyword arguments that are arrays.

    Returns:
        How many results it asks for: rows of text, or images.

    Raises:
        AigcError: names the argument, what was found and what is expected.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(type(pipeline).generate).parameters.items()
        if name not in _CALLBACKS
    }
    if unknown := sorted((request.keys() | set(arrays)) - parameters.keys()):
        raise ConfigError(f"the reference's request has {unknown[0]!r}", hint=f"known: {', '.join(parameters)}")
    _check_forms(request, arrays)
    for name, parameter in parameters.items():
        if name in arrays:
            continue
        if name not in request:
            if parameter.default is inspect.Parameter.empty:
                raise ConfigError(f"the reference's request has no {name!r}", hint=f"known: {', '.join(parameters)}")
        elif request[name] is not None or parameter.default is not None:
            _CHECKS.get(name, _any)(request[name])
    if isinstance(pipeline, TextPipeline):
        return _count_rows(pipeline, request)
    if arrays and request.get("class_labels") is None and request.get("batch") is None:
        raise ConfigError("the reference's request has arrays and does not say for how many images", hint="give batch")
    return _count_images(pipeline, request)


def _check_forms(request: Mapping[str, Any], arrays: Collection[str]) -> None:
    for name in ARRAY_ARGUMENTS:
        if name in request:
            raise ConfigError(f"request.{name} is in the manifest", hint="an array must be in a .npy file of its own")
    for name in arrays:
        if name not in ARRAY_ARGUMENTS:
            raise ConfigError(f"request.{name} is a file", hint=f"only {' and '.join(ARRAY_ARGUMENTS)} are arrays")


def image_shape(pipeline: AnyPipeline, request: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the images that a request asks for.

    Raises:
        InputError: a size that the engine does not take.
    """
    if isinstance(pipeline, DiffusionPipeline):
        return check_size(pipeline.settings, pipeline.session.interface, request.get("size"))
    if isinstance(pipeline, TextPipeline):
        raise InputError("a text pipeline makes no images")
    return pipeline.settings.sample_shape


def _any(_value: object) -> None:
    """An argument that only `generate` itself judges."""


def _ranged(name: str, low: float, high: float) -> Callable[[object], None]:
    def check(value: object) -> None:
        check_range(f"request.{name}", check_number(f"request.{name}", value, -math.inf), low, high)

    return check


def _whole(name: str, most: int) -> Callable[[object], None]:
    def check(value: object) -> None:
        number = as_integer(value)
        if number is None:
            raise ConfigError(f"request.{name} is {value!r:.200}", hint=f"must be an integer from 1 to {most:,}")
        check_range(f"request.{name}", number, 1, most)

    return check


def _texts(name: str) -> Callable[[object], None]:
    def check(value: object) -> None:
        texts = [value] if isinstance(value, str) and name == "prompts" else value
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(f"request.{name} is {value!r:.200}", hint="must be a list of texts, none of them empty")

    return check


def _sampler(value: object) -> None:
    if not isinstance(value, str) or value not in SAMPLERS:
        raise ConfigError(f"request.sampler is {value!r:.200}", hint=f"valid: {', '.join(SAMPLERS)}")


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "prompts": _texts("prompts"),
    "stop": _texts("stop"),
    "max_new_tokens": _whole("max_new_tokens", MAX_COUNT),
    "sampling": request_sampling,
    "seed": check_seed,
    "batch": _whole("batch", MAX_COUNT),
    "steps": _whole("steps", MAX_STEPS),
    "sampler": _sampler,
    "eta": _ranged("eta", 0.0, 1.0),
    "guidance_scale": _ranged("guidance_scale", 0.0, MAX_GUIDANCE_SCALE),
    "truncation": _ranged("truncation", 0.0, math.inf),
}


def _count_rows(pipeline: TextPipeline, request: Mapping[str, Any]) -> int:
    prompts = request["prompts"]
    rows = 1 if isinstance(prompts, str) else len(prompts)
    if not rows:
        raise ConfigError("request.prompts is empty", hint="must be a list of texts")
    most = min(request.get("max_new_tokens", 128), pipeline.settings.context_length)
    if rows * most > MAX_REFERENCE_TOKENS:
        raise ConfigError(
            f"the reference's request asks for {rows * most:,} tokens", hint=f"at most {MAX_REFERENCE_TOKENS:,}"
        )
    return rows


def _count_images(pipeline: AnyPipeline, request: Mapping[str, Any]) -> int:
    counts = {}
    if request.get("class_labels") is not None:
        counts["class_labels"] = len(check_labels(request["class_labels"], pipeline.settings.num_classes))  # type: ignore[union-attr]
    if request.get("batch") is not None:
        counts["batch"] = int(request["batch"])
    if len(set(counts.values())) > 1:
        raise ConfigError(f"the reference's request asks for {counts} images", hint="the numbers must agree")
    count = next(iter(counts.values()), 1)
    check_image_count(count)
    check_numbers("the result", (count, *image_shape(pipeline, request)))
    return count
