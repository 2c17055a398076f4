"""Files of pictures that tests read: good ones, and such as are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image: Any = pytest.importorskip("PIL.Image")
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def saved(folder: Path, pixels: np.ndarray, name: str = "a.png", **options: Any) -> Path:
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def bomb(folder: Path) -> Path:
    """A PNG that announces 40,000 x 40,000 pixels in a few bytes."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    (folder / "bomb.png").write_bytes(b"".join(parts))
    return folder / "bomb.png"


def film(folder: Path) -> Path:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    return folder / "film.gif"


def cmyk(folder: Path) -> Path:
    Image.fromarray(RGB).convert("CMYK").save(folder / "print.jpg")
    return folder / "print.jpg"


def empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def cut(folder: Path) -> Path:
    path = saved(folder, RGB, "cut.png")
    path.write_bytes(path.read_bytes()[:-30])
    return path
