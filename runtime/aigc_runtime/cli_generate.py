"""The verb `generate` of `aigc-run`: text to the terminal, images to a PNG file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from aigc_runtime.class_names import parse_classes
from aigc_runtime.cli import emit_json
from aigc_runtime.cli_bundle import open_bundle
from aigc_runtime.cli_output import check_outputs, say_written
from aigc_runtime.errors import InputError
from aigc_runtime.manifest import DiffusionSettings, GanSettings
from aigc_runtime.pipelines import open_pipeline
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.png import image_grid, write_png
from aigc_runtime.prompt_file import read_prompt
from aigc_runtime.sampling import SamplingParams
from aigc_runtime.streams import output_lost

__all__ = ["generate"]

_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
_TEXT = ("prompt", "prompt_file", "max_new_tokens", *_SAMPLING, "stop")
_IMAGES = ("output", "classes", "count", "scale")
_DIFFUSION = ("steps", "sampler", "eta", "guidance_scale")
_GAN = ("truncation",)
_ALLOWED = {"text": _TEXT, "diffusion": (*_IMAGES, *_DIFFUSION), "gan": (*_IMAGES, *_GAN)}
MAX_LEGEND = 100
"""Images whose classes fit into a line."""
_FLAGS = {"classes": "--class", "output": "--output"}


def generate(arguments: argparse.Namespace) -> int:
    """Generate with whatever family the bundle is of."""
    bundle = open_bundle(arguments)
    family = bundle.manifest.family
    _refuse_foreign_options(arguments, family)
    # Said before the engine is loaded: a user who forgot it should not wait.
    if family == "text" and (arguments.prompt is None) == (arguments.prompt_file is None):
        raise InputError("text needs a prompt", hint="give either --prompt TEXT or --prompt-file FILE")
    if family != "text" and arguments.output is None:
        raise InputError("images need a file", hint="give -o FILE.png")
    if arguments.output is not None:
        check_outputs(arguments.output)
    with open_pipeline(bundle, threads=arguments.threads) as pipeline:
        if isinstance(pipeline, TextPipeline):
            return _text(arguments, pipeline)
        return _images(arguments, pipeline)


def _refuse_foreign_options(arguments: argparse.Namespace, family: str) -> None:
    for name in (*_TEXT, *_IMAGES, *_DIFFUSION, *_GAN):
        if getattr(arguments, name) is not None and name not in _ALLOWED[family]:
            takes = ", ".join(_flag(n) for n in _ALLOWED[family])
            raise InputError(f"{_flag(name)} means nothing to a {family} bundle", hint=f"it takes {takes}, --seed")


def _flag(name: str) -> str:
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _read_prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None:
        return str(arguments.prompt)
    return read_prompt(arguments.prompt_file)


def _text(arguments: argparse.Namespace, pipeline: TextPipeline) -> int:
    prompt = _read_prompt(arguments)
    options = {
        "sampling": SamplingParams(**_given(arguments, *_SAMPLING)),
        **_given(arguments, "max_new_tokens", "seed", "stop"),
    }
    if arguments.json:
        (result,) = pipeline.generate(prompt, **options)
        emit_json(
            {
                "prompt": prompt,
                "text": result.text,
                "token_ids": result.token_ids.tolist(),
                "finish_reason": result.finish_reason,
                "prompt_tokens": result.prompt_tokens,
            }
        )
        return 0
    pieces = pipeline.stream(prompt, **options)
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        if output_lost():
            return 0
    sys.stdout.write("\n")
    return 0


def _labels(arguments: argparse.Namespace, settings: DiffusionSettings | GanSettings) -> list[int] | None:
    count = 1 if arguments.count is None else arguments.count
    if count < 1:
        raise InputError(f"--count is {count}", hint="must be at least 1")
    if settings.num_classes is None:
        if arguments.classes is not None:
            raise InputError(f"--class is {arguments.classes!r}", hint="this model has no classes: leave it out")
        return None
    asked: Sequence[int] = range(settings.num_classes)
    if arguments.classes is not None:
        asked = parse_classes(arguments.classes, settings.class_names, settings.num_classes)
    return [label for _ in range(count) for label in asked]


def _images(arguments: argparse.Namespace, pipeline: DiffusionPipeline | GanPipeline) -> int:
    labels = _labels(arguments, pipeline.settings)
    if isinstance(pipeline, GanPipeline):
        images = pipeline.generate(labels or [], **_given(arguments, "seed", "truncation"))
    else:
        options = _given(arguments, "seed", *_DIFFUSION)
        if labels is None:
            options["batch"] = arguments.count or 1
        if sys.stderr.isatty():
            options["progress"] = _show_progress
        images = pipeline.generate(labels, **options)
    columns = None if arguments.count is None or labels is None else len(labels) // arguments.count
    grid = image_grid(images, columns=columns, scale=4 if arguments.scale is None else arguments.scale)
    write_png(arguments.output, grid)
    told = {"output": str(arguments.output), "images": len(images), "width": grid.shape[1], "height": grid.shape[0]}
    names = pipeline.settings.class_names
    shown = labels if labels is None or names is None else [names[label] for label in labels]
    if arguments.json:
        emit_json({**told, "class_labels": labels, "class_names": None if names is None else shown})
    else:
        size = f"{told['images']} images, {told['width']} x {told['height']} pixels"
        say_written(arguments.output, f"wrote {told['output']}: {size}{_legend(shown, columns)}")
    return 0


def _legend(shown: Sequence[int | str] | None, columns: int | None) -> str:
    """Which class stands where in the grid."""
    if shown is None or len(shown) > MAX_LEGEND:
        return ""
    if columns is not None and columns < len(shown):
        return f"; columns: {', '.join(map(str, shown[:columns]))}"
    return f"; {'class' if len(shown) == 1 else 'classes row by row'}: {', '.join(map(str, shown))}"


def _show_progress(step: int, total: int) -> None:
    sys.stderr.write(f"\rstep {step}/{total}" + ("\n" if step == total else ""))
