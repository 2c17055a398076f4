"""Options of `generate` on the command line that several kinds of pipelines take."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from aigc_runtime.io.arguments import path_argument
from aigc_runtime.pipelines.kind import Option

__all__ = ["OUTPUT", "SEED", "given"]

SEED = Option(flags=("--seed",), name="seed", group="options", type=int, help="of all random draws (default: 0)")
OUTPUT = Option(
    flags=("-o", "--output"),
    name="output",
    group="files",
    type=path_argument,
    metavar="FILE",
    help="file to write: .png for a picture, .npy for numbers, .npz for tensors",
)


def given(arguments: Namespace, *options: Option) -> dict[str, Any]:
    """The values of those options that were given, by name."""
    return {option.name: value for option in options if (value := getattr(arguments, option.name)) is not None}
