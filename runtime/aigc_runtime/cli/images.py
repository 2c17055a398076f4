"""Images of the verb `generate`: everything is checked before the engine is loaded, and written as it comes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest
from aigc_runtime.cli.output import check_outputs, emit_json, say_written
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.npy import write_npy_rows
from aigc_runtime.io.output_file import is_stream
from aigc_runtime.io.png import Grid, write_png
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish_checks import check_file
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.class_names import parse_classes
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.embeddings import CONTEXT, read_embeddings
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.limits import check_image_count, check_numbers, check_size
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings
from aigc_runtime.system.memory_bound import bounded_memory

__all__ = ["DIFFUSION_OPTIONS", "GAN_OPTIONS", "IMAGE_OPTIONS", "generate_images"]

IMAGE_OPTIONS = ("output", "classes", "count", "scale")
DIFFUSION_OPTIONS = ("steps", "sampler", "eta", "guidance_scale", "size", "embeddings")
GAN_OPTIONS = ("truncation",)

MAX_LEGEND = 100
"""Images whose classes fit into a line."""

DEFAULT_SCALE = 4


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is asked for, checked against the manifest.

    Attributes:
        output: the file.
        count: of images.
        shape: (C, H, W) of each.
        labels: one per image, for a model with classes.
        columns: of the picture, where the request makes a table.
        grid: the picture; None for an array.
        options: of the pipeline.
    """

    output: Path
    count: int
    shape: tuple[int, int, int]
    labels: list[int] | None
    columns: int | None
    grid: Grid | None
    options: dict[str, Any]


def generate_images(arguments: argparse.Namespace, bundle: Bundle) -> int:
    """Generate and write them.

    Raises:
        InputError: a request that cannot be carried out; nothing was run.
    """
    settings = bundle.manifest.pipeline
    assert isinstance(settings, (DiffusionSettings, GanSettings))
    request = _request(arguments, bundle.manifest, settings)
    check_outputs(request.output)
    # An engine on a GPU reserves more addresses than there is memory.
    bounded = bounded_memory if bundle.manifest.engine.runs_on_cpu else nullcontext
    # The engine's threads are there before the bound is: their stacks are promised and hardly used.
    with open_pipeline(bundle, threads=arguments.threads) as pipeline, bounded():
        assert isinstance(pipeline, (DiffusionPipeline, GanPipeline))
        told = _write(request, _stream(request, pipeline))
    names = settings.class_names
    shown = request.labels if request.labels is None or names is None else [names[label] for label in request.labels]
    if arguments.json:
        classes = {"class_labels": request.labels, "class_names": None if names is None else shown}
        emit_json(
            "aigc-run-generate-images/1", {"output": str(arguments.output), "images": request.count, **told, **classes}
        )
        return 0
    size = f"{told['width']} x {told['height']} pixels" if request.grid else f"float32 {told['shape']}"
    legend = _legend(shown, request.columns, pictures=request.grid is not None)
    say_written(arguments.output, f"wrote {arguments.output}: {request.count} images, {size}{legend}")
    return 0


def _request(arguments: argparse.Namespace, manifest: Manifest, settings: DiffusionSettings | GanSettings) -> _Request:
    output, picture = _output(arguments.output)
    given = ("seed", *(GAN_OPTIONS if isinstance(settings, GanSettings) else DIFFUSION_OPTIONS[:4]))
    options = {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    shape = settings.sample_shape
    if isinstance(settings, DiffusionSettings) and arguments.size is not None:
        options["size"] = _size(arguments.size)
        shape = check_size(settings, manifest.interface, options["size"])
    times = 1 if arguments.count is None else arguments.count
    if times < 1:
        raise InputError(f"--count is {times}", hint="must be at least 1")
    classes = _classes(arguments.classes, settings)
    contexts = _contexts(arguments.embeddings, manifest)
    columns = _columns(classes, contexts)
    count = times * columns
    check_image_count(count)
    table = columns if arguments.count is not None and (classes is not None or contexts) else None
    grid = None
    if picture:
        grid = _grid(arguments.scale, count, shape, table)
    elif arguments.scale is not None:
        raise InputError(f"--scale is {arguments.scale} for an array", hint="it is for pictures: leave it out")
    if contexts:
        options.update(_repeated(contexts, times, columns))
    elif isinstance(settings, DiffusionSettings) and classes is None:
        options["batch"] = count
    return _Request(
        output=output,
        count=count,
        shape=shape,
        labels=None if classes is None else list(classes) * times,
        columns=table,
        grid=grid,
        options=options,
    )


def _output(name: str) -> tuple[Path, bool]:
    """The file, and whether it is a picture: its suffix says so, and a pipe or a device takes one."""
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in (".png", ".npy"):
        return path, suffix == ".png"
    check_file(path)
    if is_stream(path):
        return path, True
    kind = f"{path.suffix!r} is not a format that is written" if suffix else "it has no suffix"
    raise InputError(
        f"cannot write images to {name!r}: {kind}",
        hint="give -o FILE.png for a picture, or -o FILE.npy for the numbers",
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text, re.ASCII)
    if not found:
        raise InputError(f"--size is {shown(text)}", hint="give HEIGHTxWIDTH, such as 64x32")
    return int(found[1]), int(found[2])


def _classes(text: str | None, settings: DiffusionSettings | GanSettings) -> Sequence[int] | None:
    if settings.num_classes is None:
        if text is not None:
            raise InputError(f"--class is {shown(text)}", hint="this model has no classes: leave it out")
        return None
    if text is None:
        return range(settings.num_classes)
    return parse_classes(text, settings.class_names, settings.num_classes)


def _contexts(path: str | None, manifest: Manifest) -> dict[str, Array]:
    spec = manifest.interface.input(CONTEXT)
    if spec is None:
        if path is not None:
            raise InputError("--embeddings was given", hint="this model takes none: leave it out")
        return {}
    if path is None:
        raise InputError(
            "this model needs the embeddings of prompts",
            hint=f"give --embeddings FILE.npz with {CONTEXT} [N, T, {spec.shape[2]}] float32",
        )
    return read_embeddings(path, spec)


def _columns(classes: Sequence[int] | None, contexts: dict[str, Array]) -> int:
    """Images that one round of the request makes."""
    rows = len(contexts[CONTEXT]) if contexts else 1
    asked = 1 if classes is None else len(classes)
    if classes is not None and rows not in (1, asked):
        raise InputError(
            f"{asked} classes and {rows} embeddings", hint="give as many classes with --class, or one embedding for all"
        )
    return max(rows, asked)


def _repeated(contexts: dict[str, Array], times: int, columns: int) -> dict[str, Array]:
    """Contexts of all images: one for all takes no memory, several take theirs."""
    context = contexts[CONTEXT]
    whole = (times * columns, *context.shape[1:])
    if len(context) == 1:
        repeated = np.broadcast_to(context, whole)
    else:
        check_numbers("the embeddings of all images", whole, hint="ask for fewer at once")
        repeated = np.tile(context, (times, 1, 1))
    null = {name: array for name, array in contexts.items() if name != CONTEXT}
    for name, array in null.items():
        if len(array) not in (1, len(repeated)):
            raise InputError(f"{name} has {len(array)} rows", hint=f"give 1, or one for each of {len(repeated)} images")
    return {CONTEXT: repeated, **null}


def _grid(scale: int | None, count: int, shape: tuple[int, int, int], columns: int | None) -> Grid:
    if shape[0] not in (1, 3):
        raise InputError(
            f"a PNG holds 1 or 3 channels, the samples of this model have {shape[0]}", hint="give -o FILE.npy"
        )
    return Grid(count=count, shape=shape, columns=columns, scale=DEFAULT_SCALE if scale is None else scale)


def _stream(request: _Request, pipeline: DiffusionPipeline | GanPipeline) -> Iterator[Array]:
    if isinstance(pipeline, GanPipeline):
        return pipeline.stream(request.labels or [], **request.options)
    progress = _show_progress if sys.stderr.isatty() else None
    return pipeline.stream(request.labels, progress=progress, **request.options)


def _write(request: _Request, images: Iterator[Array]) -> dict[str, Any]:
    if request.grid is None:
        shape = (request.count, *request.shape)
        write_npy_rows(request.output, images, shape)
        return {"shape": list(shape)}
    picture = request.grid.draw(images)
    write_png(request.output, picture)
    return {"width": picture.shape[1], "height": picture.shape[0]}


def _legend(shown: Sequence[int | str] | None, columns: int | None, *, pictures: bool) -> str:
    """Which class stands where."""
    if shown is None or len(shown) > MAX_LEGEND:
        return ""
    if pictures and columns is not None and columns < len(shown):
        return f"; columns: {', '.join(map(str, shown[:columns]))}"
    place = " row by row" if pictures else ""
    return f"; {'class' if len(shown) == 1 else 'classes' + place}: {', '.join(map(str, shown))}"


def _show_progress(step: int, total: int) -> None:
    sys.stderr.write(f"\rstep {step}/{total}" + ("\n" if step == total else ""))
