"""Images of the verb `generate`: everything is checked before the engine is loaded, and written as it comes.

A name with `%d` or `%04d` in it, such as `frame_%04d.png`, stands for numbered files, one for each image.
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.arguments import path_argument
from aigc_runtime.io.npy import write_npy_rows
from aigc_runtime.io.output_file import is_stream
from aigc_runtime.io.png import Grid, image_grid, write_png
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish_checks import check_file
from aigc_runtime.io.report import emit_json, say_written
from aigc_runtime.pipelines.class_names import parse_classes
from aigc_runtime.pipelines.diffusion import CLASS_LABELS, CONTEXT, NULL_CONTEXT, DiffusionPipeline
from aigc_runtime.pipelines.embeddings import read_embeddings
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.limits import check_image_count, check_numbers, check_size
from aigc_runtime.pipelines.options import COUNT, OUTPUT, SAMPLING, SEED, SIZE, given, parse_size
from aigc_runtime.pipelines.settings import DiffusionSettings, GanSettings

__all__ = [
    "COUNT",
    "DIFFUSION_VERB",
    "IMAGE_OPTIONS",
    "ImageJob",
    "check_numbered",
    "image_grid_of",
    "image_job",
    "image_output",
    "requested_classes",
    "require_output",
]

MAX_LEGEND = 100
"""Images whose classes fit into a line."""

DEFAULT_SCALE = 4
_NUMBER = re.compile(r"%(?:0\d)?d")
"""Of a numbered file, in its name."""

CLASSES = Option(
    flags=("--class",),
    name="classes",
    group="images",
    metavar="CLASS[,...]",
    help="names or numbers (default: each once)",
)
SCALE = Option(
    flags=("--scale",), name="scale", group="images", type=int, help="pixels per pixel in the picture (default: 4)"
)
EMBEDDINGS = Option(
    flags=("--embeddings",),
    name="embeddings",
    group="diffusion",
    type=path_argument,
    metavar="FILE.npz",
    help=f"{CONTEXT} [N, T, X], and {NULL_CONTEXT} for guidance",
)
IMAGE_OPTIONS = (OUTPUT, CLASSES, COUNT, SCALE)

Settings: TypeAlias = DiffusionSettings | GanSettings


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """Images that are asked for, checked against the model.

    Attributes:
        output: the file, or the pattern of numbered files.
        count: of images.
        shape: (C, H, W) of each.
        labels: one per image, for a model with classes.
        names: of those labels, where the model's classes have names.
        columns: of the picture, where the request makes a table.
        grid: the picture; None for an array.
        numbered: whether every image is a file of its own.
        stream: pipeline -> the images, one by one.
        json: whether to report as JSON.
        written: width and height, or shape, once they are known.
    """

    output: Path
    count: int
    shape: tuple[int, int, int]
    labels: list[int] | None
    names: list[str] | None
    columns: int | None
    grid: Grid | None
    stream: Callable[[Any, ImageJob], Iterator[Array]]
    options: dict[str, Any]
    json: bool
    written: dict[str, Any]
    numbered: bool = False
    bounds_memory: bool = True

    def run(self, pipeline: Any) -> None:
        """Generate the images and write them as they come."""
        self.written.update(_write(self, self.stream(pipeline, self)))

    def report(self) -> None:
        """Say what was written, and which class stands where."""
        if self.json:
            classes = {CLASS_LABELS: self.labels, "class_names": self.names}
            document = {"output": str(self.output), "images": self.count, **self.written, **classes}
            emit_json("aigc-run-generate-images/1", document)
            return
        told, each = self.written, " each" if self.numbered else ""
        size = f"{told['width']} x {told['height']} pixels{each}" if self.grid else f"float32 {told['shape']}"
        legend = _legend(
            self.labels if self.names is None else self.names,
            self.columns,
            pictures=self.grid is not None and not self.numbered,
        )
        say_written(self.output, f"wrote {self.output}: {self.count} images, {size}{legend}")


def _prepare_diffusion(arguments: Namespace, pipeline: DiffusionPipeline) -> ImageJob:
    settings, interface = pipeline.settings, pipeline.session.interface
    require_output(arguments)
    options = given(arguments, SEED, *SAMPLING)
    shape = settings.sample_shape
    if arguments.size is not None:
        options["size"] = parse_size(arguments.size)
        shape = check_size(settings, interface, options["size"])
    return image_job(
        arguments, settings, shape, options, stream=_diffuse, contexts=_contexts(arguments.embeddings, pipeline)
    )


def require_output(arguments: Namespace) -> None:
    """Refuse a request that names no file."""
    if arguments.output is None:
        raise InputError("images need a file", hint="give -o FILE.png, or -o FILE.npy for the numbers")


def image_job(
    arguments: Namespace,
    settings: Settings,
    shape: tuple[int, int, int],
    options: dict[str, Any],
    *,
    stream: Callable[[Any, ImageJob], Iterator[Array]],
    contexts: dict[str, Array],
) -> ImageJob:
    """Check what images are asked for, and where they go; `options` are of the pipeline's `stream`.

    Raises:
        InputError: says which option and what is allowed.
        OutputError: a file that could not be written.
    """
    output, picture = image_output(arguments.output)
    times = 1 if arguments.count is None else arguments.count
    if times < 1:
        raise InputError(f"--count is {times}", hint="must be at least 1")
    classes = requested_classes(arguments.classes, settings)
    columns = _columns(classes, contexts)
    count = times * columns
    check_image_count(count)
    table = columns if arguments.count is not None and (classes is not None or contexts) else None
    numbered = picture and check_numbered(output, count)
    grid = image_grid_of(arguments, picture, shape, count=1 if numbered else count, columns=1 if numbered else table)
    if contexts:
        options.update(_repeated(contexts, times, columns))
    elif classes is None:
        options["batch"] = count
    labels = None if classes is None else list(classes) * times
    names = settings.class_names
    return ImageJob(
        output=output,
        count=count,
        shape=shape,
        labels=labels,
        names=None if labels is None or names is None else [names[label] for label in labels],
        columns=table,
        grid=grid,
        stream=stream,
        options=options,
        json=arguments.json,
        written={},
        numbered=numbered,
    )


def image_output(name: str) -> tuple[Path, bool]:
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


def requested_classes(text: str | None, settings: Settings) -> Sequence[int] | None:
    """The classes that are named, or all; None for a model without classes.

    Raises:
        InputError: a class that the model does not have.
    """
    if settings.num_classes is None:
        if text is not None:
            raise InputError(f"--class is {shown(text)}", hint="this model has no classes: leave it out")
        return None
    if text is None:
        return range(settings.num_classes)
    return parse_classes(text, settings.class_names, settings.num_classes)


def _contexts(path: str | None, pipeline: DiffusionPipeline) -> dict[str, Array]:
    spec = pipeline.session.interface.input(CONTEXT)
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


def image_grid_of(
    arguments: Namespace, picture: bool, shape: tuple[int, int, int], *, count: int, columns: int | None
) -> Grid | None:
    """Where images stand in a picture; None for an array.

    Raises:
        InputError: channels that no picture has, or too many pixels; or --scale for an array.
    """
    scale = arguments.scale
    if not picture:
        if scale is not None:
            raise InputError(f"--scale is {scale} for an array", hint="it is for pictures: leave it out")
        return None
    if shape[0] not in (1, 3):
        raise InputError(
            f"a PNG holds 1 or 3 channels, the samples of this model have {shape[0]}", hint="give -o FILE.npy"
        )
    return Grid(count=count, shape=shape, columns=columns, scale=DEFAULT_SCALE if scale is None else scale)


def check_numbered(output: Path, count: int) -> bool:
    """Whether a name is the pattern of numbered files, all of which can be written.

    Raises:
        OutputError: one of them could not.
    """
    if _NUMBER.search(output.name) is None:
        return False
    for number in {0, count - 1}:
        check_file(_numbered(output, number))
    return True


def _numbered(output: Path, number: int) -> Path:
    """The file of an image: `frame_%03d.png` is `frame_007.png` for the eighth."""
    return output.with_name(_NUMBER.sub(lambda found: found[0] % number, output.name, count=1))


def _diffuse(pipeline: DiffusionPipeline, job: ImageJob) -> Iterator[Array]:
    progress = _show_progress if sys.stderr.isatty() else None
    return pipeline.stream(job.labels, progress=progress, **job.options)


def _write(job: ImageJob, images: Iterator[Array]) -> dict[str, Any]:
    if job.grid is None:
        shape = (job.count, *job.shape)
        write_npy_rows(job.output, images, shape)
        return {"shape": list(shape)}
    if job.numbered:  # each appears whole, as it comes
        for number, image in enumerate(images):
            picture = image_grid(image[None], columns=1, scale=job.grid.scale, pad=0)
            write_png(_numbered(job.output, number), picture)
    else:
        picture = job.grid.draw(images)
        write_png(job.output, picture)
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


DIFFUSION_VERB = Verb(options=(*IMAGE_OPTIONS, *SAMPLING, SIZE, EMBEDDINGS, SEED), prepare=_prepare_diffusion)
