"""Images as PNG files (W3C Portable Network Graphics, third edition), with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.publish import atomic_write_bytes
from aigc_runtime.tensors import Array

__all__ = ["encode_png", "image_grid", "to_uint8", "write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_MAX_SIDE = 2**31 - 1


def to_uint8(images: Array) -> Array:
    """[-1, 1] float -> 0 to 255, rounded half to even and clipped; any shape.

    Raises:
        EngineError: NaN or infinity.
    """
    if not np.isfinite(images).all():
        raise EngineError("the image holds NaN or infinity", hint="run `aigc-run verify` on the bundle")
    return np.clip(np.rint((images.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)


def image_grid(images: Array, *, columns: int | None = None, scale: int = 1, pad: int = 2) -> Array:
    """Lay images out in rows.

    Args:
        images: [N, C, H, W] float in [-1, 1], C of 1 or 3.
        columns: images per row; None makes the grid about square.
        scale: every pixel becomes scale x scale pixels.
        pad: pixels between images and around them, before scaling.

    Returns:
        [height, width] or [height, width, 3] uint8, white between the images.

    Raises:
        InputError: no images, another number of channels, or counts below 1.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise InputError(f"images of shape {images.shape}", hint="need [N, C, H, W] with N >= 1 and C of 1 or 3")
    if scale < 1 or pad < 0 or (columns is not None and columns < 1):
        raise InputError(f"columns={columns}, scale={scale}, pad={pad}", hint="need columns, scale >= 1 and pad >= 0")
    n, c, h, w = images.shape
    across = min(n, columns or int(np.ceil(np.sqrt(n))))
    down = -(-n // across)
    grid = np.full((down * (h + pad) + pad, across * (w + pad) + pad, c), 255, dtype=np.uint8)
    for i, image in enumerate(to_uint8(images)):
        top, left = pad + (i // across) * (h + pad), pad + (i % across) * (w + pad)
        grid[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    large = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    return large[:, :, 0] if c == 1 else large


def encode_png(image: Array) -> bytes:
    """A uint8 image [H, W] (grey) or [H, W, 3] (RGB) as PNG bytes: 8 bits, no interlace, filter 0 on every row.

    Raises:
        InputError: another type or shape.
    """
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)) or 0 in image.shape:
        raise InputError(f"image of dtype {image.dtype}, shape {image.shape}", hint="need uint8 [H, W] or [H, W, 3]")
    h, w = image.shape[:2]
    if max(h, w) > _MAX_SIDE:
        raise InputError(f"an image of {w} x {h} pixels", hint=f"PNG allows at most {_MAX_SIDE} a side")
    # Section 7.2: every row starts with the number of its filter.
    rows = np.concatenate([np.zeros((h, 1), np.uint8), image.reshape(h, -1)], axis=1)
    header = struct.pack(">IIBBBBB", w, h, 8, _GREY if grey else _RGB, 0, 0, 0)  # section 11.2.1
    return (
        _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data, CRC-32 of type and data (section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path | str, image: Array) -> None:
    """Write an image as `encode_png` does, whole or not at all.

    Raises:
        InputError: an image that PNG cannot hold.
        OutputError: it could not be written; what was there before stays.
    """
    atomic_write_bytes(path, encode_png(image))
