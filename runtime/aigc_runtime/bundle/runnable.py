"""Whether a manifest is that of a bundle that can be run: engine, settings and request fit each other.

All of it is known from the manifest alone, and found out before any engine is loaded or memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

from aigc_runtime.bundle.engine_info import ENGINE_KINDS
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.bundle.manifest_checks import PRECISIONS
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.io.npy import MAX_HEADER_BYTES
from aigc_runtime.pipelines import AnyPipeline, make_pipeline
from aigc_runtime.pipelines.requests import MAX_REFERENCE_TOKENS, check_request, image_shape
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings, TextSettings
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["check_runnable"]

_TYPES = {
    "input_ids": "int64",
    "pad_length": "int64",
    "logits": "float32",
    "sample": "float32",
    "timestep": "float32",
    "class_labels": "int64",
    "encoder_hidden_states": "float32",
    "model_output": "float32",
    "latents": "float32",
    "image": "float32",
}
"""What pipelines feed and read, whatever an engine computes with inside."""


def check_runnable(manifest: Manifest) -> None:
    """Refuse a manifest whose pipeline could not be driven, or whose reference could not be replayed.

    Raises:
        AigcError: says which field and why.
    """
    for engine in manifest.engines.values():
        if engine.kind not in ENGINE_KINDS:
            raise UnknownNameError("engine", engine.kind, ENGINE_KINDS)
    if manifest.precision not in PRECISIONS:
        raise UnknownNameError("precision", manifest.precision, PRECISIONS)
    pipeline = _look_at(manifest)
    for tensor in (*manifest.interface.inputs, *manifest.interface.outputs):
        if (wanted := _TYPES.get(tensor.name, tensor.dtype)) != tensor.dtype:
            raise ConfigError(f"tensor {tensor.name!r} has dtype {tensor.dtype!r}", hint=f"must be {wanted}")
    inputs = {tensor.name: tensor for tensor in manifest.interface.inputs}
    if isinstance(manifest.pipeline, TextSettings):
        _check_text(manifest.pipeline, manifest, inputs)
    else:
        _check_labels(manifest.pipeline, inputs.get("class_labels"))
    if isinstance(manifest.pipeline, DiffusionSettings):
        _check_guidance(manifest.pipeline, inputs)
    _check_generation(pipeline, manifest)


def _look_at(manifest: Manifest) -> AnyPipeline:
    """The pipeline over a session that says what it takes and gives, and cannot run."""
    return make_pipeline(ArraySession(_never, manifest.interface), manifest.pipeline)


def _never(_values: Mapping[str, Array]) -> NoReturn:
    raise NotImplementedError


def _check_text(settings: TextSettings, manifest: Manifest, inputs: Mapping[str, TensorSpec]) -> None:
    high = inputs["input_ids"].high
    if high is not None and high > settings.vocab_size:
        raise ConfigError(
            f"input 'input_ids' takes ids below {high:,}, vocab_size is {settings.vocab_size:,}",
            hint="an engine must not take ids beyond its vocabulary",
        )
    if not manifest.interface.state:
        raise ConfigError("the engine carries no state", hint="a text pipeline needs one: each step feeds new tokens")
    # What a tensor has by its own size; the range of a dimension is another thing.
    rooms = [spec.room(0, {}) for spec in manifest.interface.state]
    capacity = min((room for room in rooms if room is not None), default=None)
    if capacity is not None and capacity < settings.context_length:
        raise ConfigError(
            f"context_length is {settings.context_length:,}, the carried state holds {capacity:,} steps",
            hint="a context must fit into the state",
        )


def _check_labels(settings: DiffusionSettings | GanSettings, labels: TensorSpec | None) -> None:
    if labels is None:
        if settings.num_classes is not None:
            raise ConfigError(
                f"num_classes is {settings.num_classes}, the engine has no input 'class_labels'", hint="must be null"
            )
        return
    if settings.num_classes is None:
        raise ConfigError("num_classes is null, the engine has an input 'class_labels'", hint="say how many there are")
    null = settings.null_class if isinstance(settings, DiffusionSettings) else None
    largest = max(settings.num_classes - 1, -1 if null is None else null)
    low, high = labels.low or 0, labels.high
    if low > 0 or (high is not None and largest >= high):
        raise ConfigError(
            f"input 'class_labels' takes {low} to {'any' if high is None else high - 1}, "
            f"num_classes is {settings.num_classes} and null_class {null}",
            hint="the engine must take every class",
        )


def _check_guidance(settings: DiffusionSettings, inputs: Mapping[str, TensorSpec]) -> None:
    scale = settings.default_guidance_scale
    if scale != 1.0 and settings.null_class is None and "encoder_hidden_states" not in inputs:
        raise ConfigError(
            f"default_guidance_scale is {scale:g}, and the model has no null_class", hint="must be 1: no guidance"
        )


def _check_generation(pipeline: AnyPipeline, manifest: Manifest) -> None:
    generation = manifest.reference.generation
    count = check_request(pipeline, generation.request, generation.arrays)
    size = next((info.size for info in manifest.files if info.path == generation.output), None)
    if size is None:
        return
    if isinstance(pipeline, TextPipeline):
        least, most = count * 2 * 8, MAX_REFERENCE_TOKENS * 2 * 8
        what = f"{count} rows of text"
    else:
        shape = (count, *image_shape(pipeline, generation.request))
        least = most = math.prod(shape) * 4
        what = f"images of shape {list(shape)}"
    # What was made is there: a request for more, or for other sizes, is refused before any of it is computed.
    if not least < size <= most + 10 + MAX_HEADER_BYTES:
        raise ConfigError(
            f"the reference's request asks for {what}, {least:,} bytes or more, its result {generation.output!r} has "
            f"{size:,}",
            hint="request and result must be of one size",
        )
