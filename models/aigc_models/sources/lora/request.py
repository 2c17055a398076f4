"""What a user asks for with `--lora DIR[:SCALE]`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from aigc_runtime.bundle.origin import can_be_recorded
from aigc_runtime.errors import ConfigError
from aigc_runtime.io.user_file import path_exists

__all__ = ["LoraRequest", "parse_lora"]


@dataclass(frozen=True, kw_only=True)
class LoraRequest:
    """An adapter to merge.

    Attributes:
        text: as it was typed.
        path: of its folder.
        scale: multiplies what it adds.
    """

    text: str
    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> LoraRequest:
    """Read `DIR` or `DIR:SCALE`; a folder whose own name ends so is found as it is.

    Raises:
        ConfigError: a scale that is no number, or a path that a bundle could not record.
    """
    if not can_be_recorded(text):
        raise ConfigError(
            f"--lora is {text!r}", hint="a path of printable characters: the bundle says what it was made of"
        )
    folder, colon, scale = text.rpartition(":")
    if path_exists(text) or not colon:
        return LoraRequest(text=text, path=Path(text))
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not folder:
        raise ConfigError(f"--lora is {text!r}", hint="the folder of an adapter, or with a number: my-adapter:0.5")
    return LoraRequest(text=text, path=Path(folder), scale=number)
