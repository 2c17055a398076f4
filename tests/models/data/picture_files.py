"""Picture files made by hand, byte by byte: what a reader must find in them is known without a reader."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    rows: Sequence[bytes],
    *,
    depth: int = 8,
    color: int = GRAY,
    before: Sequence[bytes] = (),
) -> bytes:
    """A PNG of `size` (width, height): packed rows, filter 0; `before` holds chunks that come before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """An EXIF block with one entry, big endian."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def tiff(
    size: tuple[int, int],
    data: bytes,
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    order: str = "<",
    sample_format: int = 1,
    extra: Sequence[int] = (),
    orientation: int = 1,
) -> bytes:
    """An uncompressed TIFF of one strip."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(256, 4, [size[0]]), (257, 4, [size[1]]), (258, 3, list(bits)), (259, 3, [1]), (262, 3, [photometric])]
    entries += [
        (273, 4, [0]),
        (274, 3, [orientation]),
        (277, 3, [len(bits)]),
        (278, 4, [size[1]]),
        (279, 4, [len(data)]),
    ]
    entries += [(338, 3, list(extra))] if extra else []
    entries += [(339, 3, [sample_format] * len(bits))]
    at = 8 + 2 + 12 * len(entries) + 4
    tail, directory = b"", struct.pack(order + "H", len(entries))
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if tag == 273:
            packed = b"????"
        if len(packed) > 4:
            directory += struct.pack(order + "HHII", tag, kind, len(values), at + len(tail))
            tail += packed + b"\0" * (len(packed) % 2)
        else:
            directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    directory = directory.replace(b"????", struct.pack(order + "I", at + len(tail)))
    return mark + struct.pack(order + "I", 8) + directory + struct.pack(order + "I", 0) + tail + data


def bmp(size: tuple[int, int], data: bytes, *, bits: int) -> bytes:
    """An uncompressed BMP; rows from the bottom, each filled to four bytes by the caller."""
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 0, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
