"""The program of an upscaler that was recognized by its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from aigc_models.program import Program

__all__ = ["OPTIONS", "upscaler"]

OPTIONS = ("tile",)
"""Of the export."""


def upscaler(
    module: nn.Module, options: Mapping[str, Any], *, multiple_of: int, sensitive: tuple[str, ...], **named: Any
) -> Program:
    """Make the program; the program of a `Network`.

    Args:
        module: with its weights.
        options: of the export: `tile`, the side of the tiles that its engine takes.
        multiple_of: the sides of what it takes are multiples of it.
        sensitive: modules that stay float where others have few bits: what reads the picture, and what makes it.
        named: its name, and where it came from.

    Raises:
        ConfigError: a tile of which the overlap leaves nothing, or that is no multiple.
    """
    from aigc_models.upscale_program import upscale_program

    return upscale_program(module, multiple_of=multiple_of, sensitive=sensitive, tile=options.get("tile"), **named)
