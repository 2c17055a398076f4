"""The verb `generate` of `aigc-run`: text to the terminal, images to a file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aigc_runtime.cli.bundle import open_bundle
from aigc_runtime.cli.images import DIFFUSION_OPTIONS, GAN_OPTIONS, IMAGE_OPTIONS, generate_images
from aigc_runtime.cli.output import emit_json
from aigc_runtime.errors import InputError
from aigc_runtime.generation.logits import SamplingParams
from aigc_runtime.io.prompt_file import read_prompt
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.system.streams import output_lost

__all__ = ["generate"]

_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
_TEXT = ("prompt", "prompt_file", "max_new_tokens", *_SAMPLING, "stop")
_ALLOWED = {
    "text": _TEXT,
    "diffusion": (*IMAGE_OPTIONS, *DIFFUSION_OPTIONS),
    "gan": (*IMAGE_OPTIONS, *GAN_OPTIONS),
}
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
        raise InputError("images need a file", hint="give -o FILE.png, or -o FILE.npy for the numbers")
    if family != "text":
        return generate_images(arguments, bundle)
    prompt, sampling = _read_prompt(arguments), SamplingParams(**_given(arguments, *_SAMPLING))
    with open_pipeline(bundle, threads=arguments.threads) as pipeline:
        assert isinstance(pipeline, TextPipeline)
        return _text(arguments, pipeline, prompt, sampling)


def _refuse_foreign_options(arguments: argparse.Namespace, family: str) -> None:
    for name in (*_TEXT, *IMAGE_OPTIONS, *DIFFUSION_OPTIONS, *GAN_OPTIONS):
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


def _text(arguments: argparse.Namespace, pipeline: TextPipeline, prompt: str, sampling: SamplingParams) -> int:
    options = {"sampling": sampling, **_given(arguments, "max_new_tokens", "seed", "stop")}
    if arguments.json:
        (result,) = pipeline.generate(prompt, **options)
        emit_json(
            "aigc-run-generate-text/1",
            {
                "prompt": prompt,
                "text": result.text,
                "token_ids": result.token_ids.tolist(),
                "finish_reason": result.finish_reason,
                "prompt_tokens": result.prompt_tokens,
            },
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
