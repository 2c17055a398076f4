"""Recognize a DCGAN generator: transposed convolutions, BatchNorm and ReLU in the row `main`, as PyTorch's example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aigc_models.sources.by_keys.network import Network, Shapes, find_prefix, last_index, require_shape
from aigc_runtime.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.program import Program

__all__ = ["find_dcgan"]

_GENERATOR = re.compile(r"(?:(.*)\.)?main\.1\.running_mean")
_DISCRIMINATOR = re.compile(r"(?:(.*)\.)?main\.3\.running_mean")
_EACH = 3
"""Places in the row of a layer: convolution, BatchNorm, ReLU."""


def find_dcgan(shapes: Shapes, *, source: str) -> Network | None:
    """Recognize a DCGAN generator, and find out its configuration from the shapes.

    Args:
        shapes: of the file.
        source: what holds them, for messages.

    Returns:
        None for another network.

    Raises:
        CheckpointError: it is one, and a tensor that says of what sizes is missing or odd, or it is a discriminator.
    """
    prefix = find_prefix(shapes, _GENERATOR, source=source)
    if prefix is None:
        _refuse_discriminator(shapes, source)
        return None
    from aigc_models.families.dcgan import MAX_LAYERS, DCGANConfig, DCGANGenerator

    last = last_index(shapes, re.escape(prefix) + r"main\.(\d+)\.", source=source)
    if last % _EACH or not 1 <= last // _EACH < MAX_LAYERS:
        raise CheckpointError(
            f"{source} ends with tensors '{prefix}main.{last}.*', expected a convolution at 3, 6, 9 and so on",
            hint=f"at most {MAX_LAYERS} of them are read, each but the last with BatchNorm and ReLU behind it",
        )
    names = [f"{prefix}main.{place}.weight" for place in range(0, last + 1, _EACH)]
    sizes = [require_shape(shapes, name, "I O 4 4", source=source)[:2] for name in names]
    config = DCGANConfig(channels=(sizes[0][0], *(size[1] for size in sizes)))
    side = config.image_size
    return Network(
        architecture="DCGAN",
        family="dcgan",
        kind="gan",
        config=config,
        build=lambda: DCGANGenerator(config),
        theirs=lambda name: f"{prefix}{name}",
        program=_program,
        words=f"{len(names)} layers, {config.channels[0]} latents, {config.channels[-1]} x {side} x {side}",
    )


def _refuse_discriminator(shapes: Shapes, source: str) -> None:
    """Refuse the other half of the game, whose files lie beside the generator's."""
    prefix = find_prefix(shapes, _DISCRIMINATOR, source=source)
    if prefix is not None and {f"{prefix}main.{place}.weight" for place in (0, 2, 5)} <= shapes.keys():
        raise CheckpointError(
            f"{source} holds a DCGAN's discriminator, which makes no images",
            hint="name the generator's file: in PyTorch's example, netG",
        )


def _program(module: nn.Module, _options: Mapping[str, Any], **named: Any) -> Program:
    from aigc_models.families.dcgan import DCGANGenerator
    from aigc_models.gan_programs import dcgan_program

    assert isinstance(module, DCGANGenerator)
    return dcgan_program(module, **named)
