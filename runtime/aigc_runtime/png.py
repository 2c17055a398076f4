"""Images as PNG files (W3C Portable Network Graphics, third edition), with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.integers import as_integer
from aigc_runtime.publish import atomic_write_bytes
from aigc_runtime.tensors import Array

__all__ = ["encode_png", "image_grid", "to_uint8", "write_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # section 5.2
_GREY, _RGB = 0, 2  # section 11.2.1, colour type
_MAX_BYTES = 2**30
"""Of pixels, before compression: so a chunk stays below the 2**31 bytes of section 5.3 even if nothing compresses."""


def to_uint8(images: Array) -> Array:
    """[-1, 1] float -> 0 to 255, rounded half to even and clipped; any shape.

    Raises:
        EngineError: NaN or infinity.
    """
    finite = np.isfinite(images)
    if not finite.all():
        where = tuple(map(int, np.argwhere(~finite)[0]))
        raise EngineError(
            f"{finite.size - np.count_nonzero(finite)} of {finite.size} pixel values are NaN or infinite, "
            f"the first at index {where}",
            hint="run `aigc-run verify` on the bundle",
        )
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
        InputError: no images, another number of channels, counts below 1, or a grid that is too large for a file.
        EngineError: NaN or infinity.
    """
    if images.ndim != 4 or 0 in images.shape or images.shape[1] not in (1, 3):
        raise InputError(f"images of shape {images.shape}", hint="need [N, C, H, W], none of them 0, and C of 1 or 3")
    n, c, h, w = images.shape
    square = int(np.ceil(np.sqrt(n)))
    counts = [as_integer(value) for value in (square if columns is None else columns, scale, pad)]
    if any(count is None or count < least for count, least in zip(counts, (1, 1, 0), strict=True)):
        raise InputError(
            f"columns={columns}, scale={scale}, pad={pad}", hint="need integers: columns, scale >= 1 and pad >= 0"
        )
    across, scale, pad = (count or 0 for count in counts)
    across = min(n, across)
    down = -(-n // across)
    height, width = down * (h + pad) + pad, across * (w + pad) + pad
    _require_size(height * scale, width * scale, c)
    grid = np.full((height, width, c), 255, dtype=np.uint8)
    for i, image in enumerate(to_uint8(images)):
        top, left = pad + (i // across) * (h + pad), pad + (i % across) * (w + pad)
        grid[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    large = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    return large[:, :, 0] if c == 1 else large


def encode_png(image: Array) -> bytes:
    """A uint8 image [H, W] or [H, W, 1] (grey) or [H, W, 3] (RGB) as PNG bytes.

    8 bits, no interlace, filter 0 on every row; the same image always gives the same pixels, and the same bytes for
    one version of zlib.

    Raises:
        InputError: another type or shape, or more than 1 GiB.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3) or 0 in image.shape:
        raise InputError(
            f"image of dtype {image.dtype}, shape {image.shape}", hint="need uint8 [H, W], [H, W, 1] or [H, W, 3]"
        )
    h, w = image.shape[:2]
    _require_size(h, w, channels)
    # Sections 7.2 and 9.2: every row starts with the number of its filter.
    rows = np.concatenate([np.zeros((h, 1), np.uint8), image.reshape(h, -1)], axis=1)
    colour = _GREY if channels == 1 else _RGB
    header = struct.pack(">IIBBBBB", w, h, 8, colour, 0, 0, 0)  # section 11.2.1
    data = zlib.compress(rows.tobytes(), 9)  # section 10.1
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _require_size(height: int, width: int, channels: int) -> None:
    if height * (width * channels + 1) > _MAX_BYTES:
        raise InputError(
            f"an image of {width} x {height} pixels with {channels} channels",
            hint=f"at most {_MAX_BYTES:,} bytes fit: ask for fewer images or a smaller scale",
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
