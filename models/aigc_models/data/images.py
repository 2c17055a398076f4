"""One picture file as a model takes it: in [-1, 1], exactly what the file holds, or refused with the file's name.

Shapes: C channels (1 gray, 3 RGB), H height, W width.

What a file may hold, and what becomes of it, is said by `aigc_runtime.io.pictures`, which reads it. Transparent pixels
are composed over a background that the user names, and refused without one; opaque alpha is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.pictures import IMAGE_SUFFIXES, ImageError, read_pixels

__all__ = ["IMAGE_SUFFIXES", "ImageError", "Picture", "parse_background", "read_picture"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as it was read.

    Attributes:
        pixels: [C, H, W] float32 in [-1, 1], C of 1 or 3.
        notes: what was done to it, or stands in it unused, for one line about all pictures.
    """

    pixels: Array
    notes: tuple[str, ...] = ()


def parse_background(text: str) -> tuple[float, float, float]:
    """RGB in [-1, 1] of `white`, `black` or `#rrggbb`.

    Raises:
        InputError: anything else.
    """
    digits = {"white": "ffffff", "black": "000000"}.get(text.lower(), text.removeprefix("#"))
    try:
        values = bytes.fromhex(digits)
    except ValueError:
        values = b""
    if len(values) != 3 or len(digits) != 6:
        raise InputError(f"background is {text!r}", hint="must be white, black or #rrggbb")
    r, g, b = (v / 127.5 - 1 for v in values)
    return r, g, b


def read_picture(path: Path | str, *, background: tuple[float, float, float] | None = None) -> Picture:
    """Read a picture.

    Args:
        path: PNG, JPEG, BMP, GIF, WebP or TIFF; the content counts, not the suffix.
        background: RGB in [-1, 1] to compose transparent pixels over, mixed in the file's own (encoded) values.

    Raises:
        ImageError: the file cannot be read exactly; names it and says why.
    """
    found = read_pixels(path)
    values = found.values.transpose(2, 0, 1).astype(np.float64) / (found.highest / 2) - 1
    notes = found.notes
    if found.alpha is not None and (found.alpha < 255).any():
        if background is None:
            raise ImageError(
                f"{str(path)!r} has transparent pixels: {int((found.alpha < 255).sum()):,} of {found.alpha.size:,}",
                hint="save it without; or let `train` put it on a color: --background white, black or #rrggbb",
            )
        values = _composed(values, found.alpha.astype(np.float64) / 255, background)
        notes = ("composed over the background", *notes)
    return Picture(pixels=np.ascontiguousarray(values, dtype=np.float32), notes=notes)


def _composed(values: Array, alpha: Array, background: tuple[float, float, float]) -> Array:
    behind = np.asarray(background)
    if len(values) == 1 and len(set(background)) == 1:
        behind = behind[:1]
    mixed: Array = values * alpha + behind[:, None, None] * (1 - alpha)
    return mixed
