"""Options of `generate` on the command line that several kinds of pipelines take."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

from aigc_runtime.errors import InputError
from aigc_runtime.generation.samplers import SAMPLERS
from aigc_runtime.io.arguments import path_argument, text_argument
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.kind import Option

__all__ = ["COUNT", "IMAGE_FILE", "OUTPUT", "PROMPT", "SAMPLING", "SEED", "SIZE", "given", "parse_size"]

SEED = Option(flags=("--seed",), name="seed", group="options", type=int, help="of all random draws (default: 0)")
OUTPUT = Option(
    flags=("-o", "--output"),
    name="output",
    group="files",
    type=path_argument,
    metavar="FILE",
    help="file to write: .png for a picture (.jpg for one of a text), .npy for numbers, .npz for tensors",
)


PROMPT = Option(
    flags=("--prompt",),
    name="prompt",
    group="text",
    type=text_argument,
    help="text to continue, or to make a picture of",
)
COUNT = Option(
    flags=("--count",),
    name="count",
    group="images",
    type=int,
    help="images per class, embedding or prompt (default: 1)",
)
SAMPLING = (
    Option(flags=("--steps",), name="steps", group="diffusion", type=int, help="sampling steps"),
    Option(flags=("--sampler",), name="sampler", group="diffusion", help=f"one of {', '.join(SAMPLERS)}"),
    Option(flags=("--eta",), name="eta", group="diffusion", type=float, help="share of fresh noise in DDIM, 0 to 1"),
    Option(
        flags=("--guidance-scale",),
        name="guidance_scale",
        group="diffusion",
        type=float,
        help="classifier-free guidance; 1 is none",
    ),
    Option(
        flags=("--guidance-rescale",),
        name="guidance_rescale",
        group="diffusion",
        type=float,
        help="share of the guided deviation that is taken back, 0 to 1 (default: 0)",
    ),
)
SIZE = Option(
    flags=("--size",),
    name="size",
    group="diffusion",
    metavar="HxW",
    help="sides of an image, for an engine that takes several",
)
IMAGE_FILE = Option(
    flags=("--image",),
    name="image",
    group="pictures",
    type=path_argument,
    metavar="FILE",
    help="the picture to enlarge, or to begin with: PNG, JPEG, BMP, GIF, WebP or TIFF, or a .npy of uint8",
)


def given(arguments: Namespace, *options: Option) -> dict[str, Any]:
    """The values of those options that were given, by name."""
    return {option.name: value for option in options if (value := getattr(arguments, option.name)) is not None}


def parse_size(text: str, flag: str = "--size") -> tuple[int, int]:
    """The value of `--size` or a flag like it, (H, W).

    Raises:
        InputError: it is of another form.
    """
    found = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text, re.ASCII)
    if not found:
        raise InputError(f"{flag} is {shown(text)}", hint="give HEIGHTxWIDTH, such as 64x32")
    return int(found[1]), int(found[2])
