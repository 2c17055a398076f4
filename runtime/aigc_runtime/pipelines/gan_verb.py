"""The verb `generate` of a GAN: draws, and paths from seed to seed."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.image_verb import (
    COUNT,
    IMAGE_OPTIONS,
    ImageJob,
    check_numbered,
    image_grid_of,
    image_job,
    image_output,
    requested_classes,
    require_output,
)
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.limits import check_image_count
from aigc_runtime.pipelines.options import SEED, given

__all__ = ["GAN_VERB"]

DEFAULT_FRAMES = 30

TRUNCATION = Option(
    flags=("--truncation",),
    name="truncation",
    group="GAN",
    type=float,
    help="with styles psi, 1 for none; without, redraw latents beyond this magnitude",
)
CUTOFF = Option(
    flags=("--truncation-cutoff",),
    name="truncation_cutoff",
    group="GAN",
    type=int,
    metavar="LAYERS",
    help="layers that are truncated (default: all)",
)
MIX_SEED = Option(flags=("--mix-seed",), name="mix_seed", group="GAN", type=int, help="of styles for the later layers")
MIX_FROM = Option(
    flags=("--mix-from",), name="mix_from", group="GAN", type=int, metavar="LAYER", help="the first of these layers"
)
NOISE_SEED = Option(
    flags=("--noise-seed",), name="noise_seed", group="GAN", type=int, help="of the layers' noise (default: --seed)"
)
INTERPOLATE = Option(
    flags=("--interpolate",),
    name="interpolate",
    group="GAN",
    metavar="SEED,SEED[,...]",
    help="images on the path from seed to seed",
)
FRAMES = Option(
    flags=("--frames",), name="frames", group="GAN", type=int, help=f"of the path (default: {DEFAULT_FRAMES})"
)
SPACE = Option(flags=("--space",), name="space", group="GAN", help="of the path: z or w (default: w with styles)")

_BOTH = (TRUNCATION, CUTOFF, NOISE_SEED)
_DRAWS = (SEED, MIX_SEED, MIX_FROM)
_PATHS = (FRAMES, SPACE)


def _prepare(arguments: Namespace, pipeline: GanPipeline) -> ImageJob:
    require_output(arguments)
    options = given(arguments, *_BOTH)
    if arguments.interpolate is not None:
        return _path(arguments, pipeline, options)
    _refuse(arguments, *_PATHS, hint="it is for --interpolate")
    options.update(given(arguments, *_DRAWS))
    job = image_job(arguments, pipeline.settings, pipeline.settings.sample_shape, options, stream=_draw, contexts={})
    _draw(pipeline, job)  # says at once what is refused; nothing runs before the first image is asked for
    return job


def _draw(pipeline: GanPipeline, job: ImageJob) -> Iterator[Array]:
    return pipeline.stream(job.labels, **job.options)


def _refuse(arguments: Namespace, *options: Option, hint: str) -> None:
    for option in options:
        if (value := getattr(arguments, option.name)) is not None:
            raise InputError(f"{option.flags[-1]} is {shown(value)}", hint=hint)


def _path(arguments: Namespace, pipeline: GanPipeline, options: dict[str, Any]) -> ImageJob:
    """Images on the path between seeds."""
    _refuse(arguments, *_DRAWS, COUNT, hint="--interpolate names its seeds, and --frames how many images there are")
    settings = pipeline.settings
    output, picture = image_output(arguments.output)
    classes = requested_classes(arguments.classes, settings)
    if classes is not None and len(classes) != 1:
        raise InputError(f"a path for {len(classes)} classes", hint="give one with --class")
    frames = DEFAULT_FRAMES if arguments.frames is None else arguments.frames
    check_image_count(frames)
    numbered = picture and check_numbered(output, frames)
    options = {**options, **given(arguments, SPACE), "seeds": _seeds(arguments.interpolate), "frames": frames}
    if classes is not None:
        options["class_label"] = int(classes[0])
    job = ImageJob(
        output=output,
        count=frames,
        shape=settings.sample_shape,
        labels=None,
        names=None,
        columns=None,
        grid=image_grid_of(arguments, picture, settings.sample_shape, count=1 if numbered else frames, columns=None),
        stream=_interpolate,
        options=options,
        json=arguments.json,
        written={},
        numbered=numbered,
    )
    _interpolate(pipeline, job)  # as above
    return job


def _interpolate(pipeline: GanPipeline, job: ImageJob) -> Iterator[Array]:
    return pipeline.interpolate(**job.options)


def _seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,20}(,\d{1,20})+", text, re.ASCII):
        raise InputError(f"--interpolate is {shown(text)}", hint="give two seeds or more, such as 3,9")
    return [int(seed) for seed in text.split(",")]


GAN_VERB = Verb(options=(*IMAGE_OPTIONS, *_BOTH, *_DRAWS[1:], INTERPOLATE, *_PATHS, SEED), prepare=_prepare)
