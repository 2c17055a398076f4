"""Images as JPEG files (ITU-T T.81), by Pillow: smaller than PNG, and not pixel for pixel what was made."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineMissingError, InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish import atomic_write_bytes

__all__ = ["check_jpeg", "encode_jpeg", "write_jpeg"]

QUALITY = 95
"""Of libjpeg, 0 to 100; colors are kept at full resolution."""
MAX_SIDE = 65_500
"""What libjpeg writes."""
MAX_COMMENT = 65_533
"""Bytes of a comment (section B.2.4.5)."""


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as err:
        raise EngineMissingError(
            "JPEG files are written with the package Pillow, which is not installed",
            hint="pip install 'aigc-runtime[images]', or write a .png",
        ) from err
    return Image


def check_jpeg(height: int, width: int, comment: str = "") -> None:
    """Refuse what no JPEG file holds, before it is made.

    Args:
        height: of the image.
        width: likewise.
        comment: beside it.

    Raises:
        EngineMissingError: Pillow is not installed.
        InputError: an image that is too large, or a comment that is too long.
    """
    _pillow()
    if max(height, width) > MAX_SIDE:
        raise InputError(
            f"an image of {shown(width)} x {shown(height)} pixels as JPEG",
            hint=f"at most {MAX_SIDE:,} a side: ask for fewer pictures, or write a .png",
        )
    if (size := len(comment.encode("utf-8", "replace"))) > MAX_COMMENT:
        raise InputError(
            f"the request has {size:,} bytes, which stand in the file",
            hint=f"a JPEG holds {MAX_COMMENT:,}: ask for less, or write a .png",
        )


def encode_jpeg(image: Array, comment: str = "") -> bytes:
    """Encode a uint8 image [H, W, 3].

    Args:
        image: RGB.
        comment: that the file holds beside it, in UTF-8.

    Raises:
        EngineMissingError: Pillow is not installed.
        InputError: another type or shape, or what `check_jpeg` refuses.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"image of dtype {image.dtype}, shape {image.shape}", hint="need uint8 [H, W, 3]")
    check_jpeg(image.shape[0], image.shape[1], comment)
    file = io.BytesIO()
    said = comment.encode("utf-8", "replace")
    _pillow().fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=QUALITY, subsampling=0, comment=said)
    return file.getvalue()


def write_jpeg(path: Path | str, image: Array, comment: str = "") -> None:
    """Write an image, and a comment, as `encode_jpeg` does, whole or not at all.

    Raises:
        EngineMissingError: Pillow is not installed.
        InputError: an image that JPEG cannot hold.
        OutputError: it could not be written; what was there before stays.
    """
    atomic_write_bytes(path, encode_jpeg(image, comment))
