"""Images as PNG files (W3C Portable Network Graphics, third edition), with the standard library alone."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError, InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish import atomic_file, atomic_write_bytes

__all__ = ["Grid", "encode_png", "image_grid", "to_uint8", "write_png", "write_png_bands"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # section 5.2
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # section 11.2.1: channels -> color type
_NONE, _SUB = 0, 1  # section 9.2, filters
_NO_TEXTS: Mapping[str, str] = MappingProxyType({})
_MAX_BYTES = 2**28
"""Of pixels, before compression: five times as much memory is needed while a file is made. A chunk of section 5.3 may
have 2**31 bytes, even if nothing compresses.
"""


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


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where images stand in one picture.

    Attributes:
        count: images.
        shape: (C, H, W) of each, C of 1 or 3.
        columns: images per row; None makes the grid about square.
        scale: every pixel becomes scale x scale pixels.
        pad: pixels between images and around them, before scaling.

    Raises:
        InputError: no images, another number of channels, counts below 1, or a grid that is too large for a file.
    """

    count: int
    shape: tuple[int, ...]
    columns: int | None = None
    scale: int = 1
    pad: int = 2

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or 0 in (self.count, *self.shape) or self.shape[0] not in (1, 3):
            raise InputError(
                f"images of shape {(self.count, *self.shape)}",
                hint="need [N, C, H, W], none of them 0, and C of 1 or 3",
            )
        for name, least in (("columns", 1), ("scale", 1), ("pad", 0)):
            count = self.across if name == "columns" and self.columns is None else as_integer(getattr(self, name))
            if count is None or count < least:
                raise InputError(
                    f"columns={shown(self.columns)}, scale={shown(self.scale)}, pad={shown(self.pad)}",
                    hint="need integers: columns, scale >= 1 and pad >= 0",
                )
            object.__setattr__(self, name, count)
        height, width = self.sides
        _require_size(height * self.scale, width * self.scale, self.shape[0])

    @property
    def across(self) -> int:
        """Images in a row."""
        return min(self.count, self.columns or math.isqrt(self.count - 1) + 1)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width before scaling."""
        _, h, w = self.shape
        down = -(-self.count // self.across)
        return down * (h + self.pad) + self.pad, self.across * (w + self.pad) + self.pad

    def draw(self, images: Iterable[Array]) -> Array:
        """Lay `count` images [C, H, W] out as they come.

        Returns:
            [height, width] or [height, width, 3] uint8, white between the images.

        Raises:
            EngineError: NaN or infinity.
        """
        return self.lay(to_uint8(image).transpose(1, 2, 0) for image in images)

    def lay(self, pictures: Iterable[Array]) -> Array:
        """Lay `count` pictures [H, W, C] uint8 out as they come; returns what `draw` does."""
        c, h, w = self.shape
        grid = np.full((*self.sides, c), 255, dtype=np.uint8)
        for i, picture in enumerate(pictures):
            top, left = self.pad + (i // self.across) * (h + self.pad), self.pad + (i % self.across) * (w + self.pad)
            grid[top : top + h, left : left + w] = picture
        large = grid.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        return large[:, :, 0] if c == 1 else large


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
        InputError: see `Grid`.
        EngineError: NaN or infinity.
    """
    count = images.shape[0] if images.ndim == 4 else 0
    grid = Grid(count=count, shape=images.shape[1:], columns=columns, scale=scale, pad=pad)
    return grid.draw(images)


def encode_png(image: Array, texts: Mapping[str, str] = _NO_TEXTS) -> bytes:
    """A uint8 image [H, W] or [H, W, 1] (gray) or [H, W, 3] (RGB) as PNG bytes.

    8 bits, no interlace, filter 0 on every row; the same image always gives the same pixels, and the same bytes for
    one version of zlib.

    Args:
        image: that is written.
        texts: keyword -> text, which the file holds beside it.

    Raises:
        InputError: another type or shape, or more than 256 MiB of pixels.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3) or 0 in image.shape:
        raise InputError(
            f"image of dtype {image.dtype}, shape {image.shape}", hint="need uint8 [H, W], [H, W, 1] or [H, W, 3]"
        )
    h, w = image.shape[:2]
    _require_size(h, w, channels)
    # Sections 7.2 and 9.2: every row starts with the number of its filter.
    rows = np.concatenate([np.full((h, 1), _NONE, np.uint8), image.reshape(h, -1)], axis=1)
    data = zlib.compress(rows.tobytes(), 9)  # section 10.1
    said = b"".join(_chunk(b"iTXt", _international_text(keyword, text)) for keyword, text in texts.items())
    return _start(h, w, channels) + said + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _international_text(keyword: str, text: str) -> bytes:
    """Keyword, not compressed, of no language, no translated keyword, text (section 11.3.3.4)."""
    if not 0 < len(keyword) < 80 or not (keyword.isascii() and keyword.isprintable()):
        raise InputError(f"the keyword of a text is {shown(keyword)}", hint="must be 1 to 79 printable ASCII letters")
    return keyword.encode("ascii") + b"\0" + b"\0\0" + b"\0" + b"\0" + text.replace("\0", "").encode("utf-8", "replace")


def _start(height: int, width: int, channels: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)  # section 11.2.1
    return _SIGNATURE + _chunk(b"IHDR", header)


def _require_size(height: int, width: int, channels: int) -> None:
    if height * (width * channels + 1) > _MAX_BYTES:
        raise InputError(
            f"an image of {shown(width)} x {shown(height)} pixels with {channels} channels",
            hint=f"at most {_MAX_BYTES:,} bytes fit: ask for fewer images or a smaller scale",
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Length, type, data, CRC-32 of type and data (section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path | str, image: Array, texts: Mapping[str, str] = _NO_TEXTS) -> None:
    """Write an image, and texts, as `encode_png` does, whole or not at all.

    Raises:
        InputError: an image that PNG cannot hold.
        OutputError: it could not be written; what was there before stays.
    """
    atomic_write_bytes(path, encode_png(image, texts))


def write_png_bands(path: Path | str, bands: Iterable[Array], shape: tuple[int, int, int]) -> None:
    """Write an image of any size as its rows come; the file appears whole or not at all.

    Args:
        path: the file to create or replace.
        bands: [rows, width, channels] uint8, from the top.
        shape: height, width and channels of the whole: 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGBA).

    Raises:
        InputError: an image that PNG cannot hold, or bands that are not its rows.
        OutputError: it could not be written; what was there before stays.
    """
    height, width, channels = shape
    if channels not in _COLOR_TYPES or not (0 < height < 2**31 and 0 < width < 2**31):
        raise InputError(f"an image of shape {list(shape)}", hint="need [height, width, channels], channels of 1 to 4")
    packer, written = zlib.compressobj(6), 0
    with atomic_file(path) as file:
        file.write(_start(height, width, channels))
        for band in bands:
            if band.dtype != np.uint8 or band.shape[1:] != shape[1:] or written + len(band) > height:
                raise InputError(
                    f"rows of dtype {band.dtype}, shape {band.shape} behind {written}",
                    hint=f"need uint8 of {list(shape)}",
                )
            written += len(band)
            rows = np.empty((len(band), 1 + width * channels), np.uint8)
            rows[:, 0] = _SUB
            rows[:, 1:] = band.reshape(len(band), -1)
            rows[:, 1 + channels :] -= band[:, :-1].reshape(len(band), -1)  # modulo 256
            if data := packer.compress(rows.data):
                file.write(_chunk(b"IDAT", data))
        if written != height:
            raise InputError(f"{written} rows of an image of {height}", hint="all of them must come")
        file.write(_chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b""))
