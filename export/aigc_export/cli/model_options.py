"""Options that say which model is meant and what it is calibrated on; verbs that make a recipe share them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from aigc_export.cli.paths import TEXT_PATH
from aigc_export.targets import DEFAULT_TARGET

if TYPE_CHECKING:
    from aigc_models.program import Program

__all__ = [
    "calibration_option",
    "chosen_model",
    "model_options",
    "original_option",
    "seed_option",
    "target_option",
    "tolerance_option",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_METHODS = click.Choice(["minmax", "percentile", "mse", "kl"])
_RANGES = click.Choice(["auto", "minmax", "percentile", "mse", "kl"])
_OPTIONS = (
    click.option("--checkpoint", type=TEXT_PATH, help="Your own weights. Default: the shipped ones."),
    click.option(
        "--cache",
        help="KV cache of a language model: growing or buffer. Default: what the target runs faster.",
    ),
    click.option("--context-length", type=click.IntRange(min=2), help="Positions of a language model. Default: all."),
    click.option(
        "--separate-prefill/--no-separate-prefill",
        default=None,
        help="Two engines of a language model, for prompts and for tokens. Default: in 8 bits, where prompts gain.",
    ),
    click.option("--lora", multiple=True, metavar="PATH[:SCALE]", help="An adapter, merged in; may be repeated."),
    click.option("--lora-partial", is_flag=True, help="Leave out what of an adapter the model does not have."),
    click.option("--embedding", multiple=True, metavar="FILE[:TOKEN]", help="A textual inversion; may be repeated."),
    click.option("--dynamic-size/--fixed-size", default=None, help="Let the sides of a UNet's sample vary."),
    click.option("--noise", help="Of a StyleGAN2: constant (default), random (an input of the engine) or none."),
    click.option(
        "--tile", type=click.IntRange(min=1), help="Of an upscaler: side of its tiles. Default: 128, or more."
    ),
    click.option(
        "--calibration-data", type=TEXT_PATH, help="Your text, jsonl, images or .npz. Default: the model's own."
    ),
    click.option(
        "--calibration-samples",
        type=click.IntRange(min=1),
        help="Default: 256; of text 128, of large pictures 4 to 32.",
    ),
    click.option("--keep-float", multiple=True, metavar="MODULE", help="Not quantized; may be repeated."),
    click.option(
        "--float-share",
        type=float,
        help="Of the work, what may stay float where that gains most. Default: 0.1; of text 0.3.",
    ),
    click.option("--ranges", type=_RANGES, help="Of activations. Default: auto, each by what it does to the outputs."),
    click.option("--weight-ranges", type=_METHODS, help="Of weights' channels."),
    click.option(
        "--weight-method",
        type=click.Choice(["rtn", "gptq", "awq"]),
        help="Of weights (awq: weights alone). Default: gptq.",
    ),
    click.option("--block", type=click.Choice(["32", "64", "128"]), help="Weights alone: numbers that share a scale."),
    click.option(
        "--weight-zero-points/--no-weight-zero-points",
        default=None,
        help="Of 4-bit weights: a zero point for each block, or codes around zero. Default: a zero point.",
    ),
    click.option(
        "--rotate/--no-rotate",
        default=None,
        help="Mix the channels of residual streams, in int8, so that none is large. Default: by the outputs.",
    ),
    click.option("--split-skips", is_flag=True, help="A range for each branch of a concatenation, in 8 bits."),
    click.option(
        "--equalize", type=float, help="Channels of results made alike, in int8: 0 (not) to 1. Default: by the outputs."
    ),
)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as `requested`, keyword arguments of `export_recipe`."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        checkpoint: str | None,
        cache: str | None,
        context_length: int | None,
        separate_prefill: bool | None,
        lora: tuple[str, ...],
        lora_partial: bool,
        embedding: tuple[str, ...],
        dynamic_size: bool | None,
        noise: str | None,
        tile: int | None,
        calibration_data: str | None,
        calibration_samples: int | None,
        keep_float: tuple[str, ...],
        float_share: float | None,
        rotate: bool | None,
        split_skips: bool,
        equalize: float | None,
        ranges: str | None,
        weight_ranges: str | None,
        weight_method: str | None,
        block: str | None,
        weight_zero_points: bool | None,
        **named: Any,
    ) -> Any:
        requested = {
            "checkpoint": checkpoint,
            "spec_options": {
                "cache": cache,
                "context_length": context_length,
                "dynamic_size": dynamic_size,
                "embedding": embedding or None,
                "lora": lora or None,
                "lora_partial": lora_partial or None,
                "noise": noise,
                "separate_prefill": separate_prefill,
                "tile": tile,
            },
            "calibration_data": calibration_data,
            "calibration_samples": calibration_samples,
            "keep_float": keep_float,
            "float_share": float_share,
            "rotate": rotate,
            "split_skips": split_skips,
            "equalize": equalize,
            "ranges": ranges,
            "weight_ranges": weight_ranges,
            "weight_method": weight_method,
            "block": None if block is None else int(block),
            "weight_zero_points": weight_zero_points,
        }
        return function(*arguments, requested=requested, **named)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_model(model: str, requested: dict[str, Any]) -> str | Program:
    """What MODEL on a command line stands for: a shipped name, or the program that another name loads.

    Args:
        model: as typed.
        requested: keyword arguments of `export_recipe`, of which those that say how to load it are taken out.

    Raises:
        AigcError: see `sources.resolve`.
    """
    from aigc_models.sources import resolve
    from aigc_models.sources.shipped import MODELS

    if model in MODELS:
        return model
    return resolve(model, options={"checkpoint": requested.pop("checkpoint"), **requested.pop("spec_options")})


def original_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--model`: what a bundle was made from, where only the user may say so."""
    return click.option("--model", metavar="FILE.py:FUNCTION", help="Your own code that made the model of the bundle.")(
        function
    )


def target_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--target`."""
    return click.option(
        "--target", default=DEFAULT_TARGET, show_default=True, help="Engine and device; see `aigc-export models`."
    )(function)


def calibration_option(what_for: str) -> Decorator:
    """Add `--calibration`, a file of an earlier calibration."""
    return click.option("--calibration", type=TEXT_PATH, help=f"A file of `aigc-export calibrate`, {what_for}.")


def seed_option(of: str) -> Decorator:
    """Add `--seed`; `of` names what is drawn with it."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=f"Of the {of}.")


def tolerance_option(instead: str) -> Decorator:
    """Add `--tolerance`, limits of the user's own; `instead` names what they replace."""
    return click.option(
        "--tolerance", multiple=True, metavar="NAME=VALUE", help=f"A limit {instead}: min_sqnr_db=60; may be repeated."
    )
