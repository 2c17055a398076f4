"""Pictures of the verb `generate` that are made from a text; the request stands in the file beside them."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aigc_runtime.errors import InputError
from aigc_runtime.io.arguments import path_argument, text_argument
from aigc_runtime.io.jpeg import check_jpeg, write_jpeg
from aigc_runtime.io.npy import write_npy
from aigc_runtime.io.output_file import is_stream
from aigc_runtime.io.png import Grid, write_png
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.publish_checks import check_file
from aigc_runtime.io.report import emit_json, say_written
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.options import COUNT, IMAGE_FILE, OUTPUT, PROMPT, SAMPLING, SEED, SIZE, given, parse_size
from aigc_runtime.pipelines.picture_files import read_picture
from aigc_runtime.pipelines.prompt_encoder import PicturePrompt
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_request import PictureRequest

__all__ = ["REQUEST_KEYWORD", "TEXT_TO_IMAGE_VERB"]

REQUEST_KEYWORD = "aigc-request"
"""Of the text in a PNG that holds the request as JSON; in a JPEG's comment it is an object's only key."""
JPEG = (".jpg", ".jpeg")

NEGATIVE = Option(
    flags=("--negative",), name="negative", group="text", type=text_argument, help="what guidance leads away from"
)
PROMPT_2 = Option(
    flags=("--prompt-2",),
    name="prompt_2",
    group="text",
    type=text_argument,
    help="what a second text encoder reads (default: --prompt)",
)
NEGATIVE_2 = Option(
    flags=("--negative-2",),
    name="negative_2",
    group="text",
    type=text_argument,
    help="the same of --negative",
)
MASK_FILE = Option(
    flags=("--mask",),
    name="mask",
    group="pictures",
    type=path_argument,
    metavar="FILE",
    help="a picture as large as --image, white where that is painted anew",
)
STRENGTH = Option(
    flags=("--strength",),
    name="strength",
    group="pictures",
    type=float,
    help="how much of --image is given up, above 0 to 1 (default: 0.8, with --mask 1)",
)
TILE = Option(
    flags=("--tile",),
    name="tile",
    group="pictures",
    type=int,
    help="side of the tiles that latents are decoded in, 0 for none (default: by size)",
)
_SEEN = "sides that the picture is to look {}, for a model that sees them (default: --size)"
ORIGINAL_SIZE = Option(
    flags=("--original-size",),
    name="original_size",
    group="diffusion",
    metavar="HxW",
    help=_SEEN.format("resized from"),
)
CROP = Option(
    flags=("--crop",),
    name="crop",
    group="diffusion",
    metavar="TOPxLEFT",
    help="where it is to look cropped at, for such a model (default: 0x0)",
)
TARGET_SIZE = Option(
    flags=("--target-size",),
    name="target_size",
    group="diffusion",
    metavar="HxW",
    help=_SEEN.format("made for"),
)
_SIZES = (ORIGINAL_SIZE, CROP, TARGET_SIZE)
_PLAIN = (PROMPT, PROMPT_2, NEGATIVE, NEGATIVE_2, COUNT, SEED, *SAMPLING, STRENGTH, TILE)


@dataclass(frozen=True, kw_only=True)
class _PictureJob:
    """Pictures that are asked for, checked against the model.

    Attributes:
        output: the file.
        asked: arguments of `generate`.
        request: the same, checked.
        notes: what was done to the picture as it was read, and what of the prompts is not seen.
        json: whether to report as JSON.
        written: the sizes of what was written, once they are known.
    """

    output: Path
    asked: Mapping[str, Any]
    request: PictureRequest
    notes: list[str]
    json: bool
    written: dict[str, Any] = field(default_factory=dict)
    bounds_memory: bool = True

    def run(self, pipeline: TextToImagePipeline) -> None:
        """Make the pictures and write them."""
        request = self.request
        self.notes.extend(pipeline.notes(request.texts))
        pictures = pipeline.generate(**self.asked, progress=_show_progress if sys.stderr.isatty() else None)
        if self.output.suffix.lower() == ".npy":
            atomic_write_bytes(self.output, write_npy(pictures))
            self.written.update(shape=list(pictures.shape))
            return
        picture = pictures[0] if request.count == 1 else _grid(request).lay(pictures)
        if self.output.suffix.lower() in JPEG:
            write_jpeg(self.output, picture, _comment(request))
        else:
            write_png(self.output, picture, {REQUEST_KEYWORD: json.dumps(_described(request), ensure_ascii=False)})
        self.written.update(width=picture.shape[1], height=picture.shape[0])

    def report(self) -> None:
        """Say what was written, and by which seeds."""
        request = self.request
        if self.json:
            document = {"output": str(self.output), "pictures": request.count, **self.written}
            document |= {"request": _described(request), "notes": self.notes}
            emit_json("aigc-run-generate-pictures/1", document)
            return
        told = self.written
        size = f"{told['width']} x {told['height']} pixels" if "width" in told else f"uint8 {told['shape']}"
        seeds = f"seed {request.seeds[0]}" if request.count == 1 else f"seeds {request.seeds[0]} to {request.seeds[-1]}"
        line = f"wrote {self.output}: {request.count} picture{'' if request.count == 1 else 's'}, {size}, {seeds}"
        say_written(self.output, "; ".join((line, *self.notes)))


def _prepare(arguments: Namespace, pipeline: TextToImagePipeline) -> _PictureJob:
    if arguments.prompt is None:
        raise InputError("no prompt was given", hint="give --prompt TEXT")
    if arguments.output is None:
        raise InputError("pictures need a file", hint="give -o FILE.png or FILE.jpg, or -o FILE.npy for the numbers")
    output = Path(arguments.output)
    if output.suffix.lower() not in (".png", ".npy", *JPEG):
        check_file(output)
        if not is_stream(output):
            raise InputError(
                f"cannot write pictures to {shown(arguments.output)}",
                hint="give -o FILE.png or FILE.jpg, or -o FILE.npy for the numbers",
            )
    asked = given(arguments, *_PLAIN)
    notes: list[str] = []
    for option in (SIZE, *_SIZES):
        if (text := getattr(arguments, option.name)) is not None:
            asked[option.name] = parse_size(text, *option.flags)
    for option in (IMAGE_FILE, MASK_FILE):
        if (path := getattr(arguments, option.name)) is not None:
            asked[option.name], told = read_picture(path)
            notes += told
    request = pipeline.request(**asked)
    if output.suffix.lower() != ".npy":
        grid = _grid(request)  # judges what fits into a file
        if output.suffix.lower() in JPEG:
            check_jpeg(*(request.size if request.count == 1 else grid.sides), _comment(request))
    return _PictureJob(output=output, asked=asked, request=request, notes=notes, json=arguments.json)


def _grid(request: PictureRequest) -> Grid:
    """Several pictures side by side in about a square."""
    return Grid(count=request.count, shape=(3, *request.size))


def _comment(request: PictureRequest) -> str:
    """What stands in a JPEG file, which has no keywords."""
    return json.dumps({REQUEST_KEYWORD: _described(request)}, ensure_ascii=False)


def _described(request: PictureRequest) -> dict[str, Any]:
    """What makes the same pictures again, with the same bundle."""
    sampling, given_picture = request.sampling, request.given
    described: dict[str, Any] = {
        **_texts("prompt", request.prompts[0]),
        **_texts("negative", None if request.negatives is None else request.negatives[0]),
        "seeds": list(request.seeds),
        "size": list(request.size),
        "steps": sampling.levels.skipped + sampling.levels.steps,
        "sampler": sampling.sampler,
        "eta": sampling.config.eta,
        "guidance_scale": request.scale,
        "guidance_rescale": request.rescale,
    }
    if request.sizes is not None:
        described |= dict(zip(("original_size", "crop", "target_size"), _pairs(request.sizes), strict=True))
    if given_picture is not None:
        described |= {"strength": given_picture.strength, "masked": given_picture.mask is not None}
    return described


def _texts(name: str, text: PicturePrompt | None) -> dict[str, str | None]:
    """A text by the name of its argument; and what a second text encoder reads in its place."""
    return {name: text[0], f"{name}_2": text[1]} if isinstance(text, tuple) else {name: text}


def _pairs(numbers: tuple[int, ...]) -> Iterator[list[int]]:
    return (list(numbers[i : i + 2]) for i in range(0, len(numbers), 2))


def _show_progress(step: int, total: int) -> None:
    sys.stderr.write(f"\rstep {step}/{total}" + ("\n" if step == total else ""))


TEXT_TO_IMAGE_VERB = Verb(options=(*_PLAIN, SIZE, *_SIZES, IMAGE_FILE, MASK_FILE, OUTPUT), prepare=_prepare)
