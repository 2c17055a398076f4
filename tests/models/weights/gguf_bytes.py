"""GGUF files by hand, byte by byte, so that they can also be wrong."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def number(key: str, value: int) -> bytes:
    """A value of type uint32."""
    return text(key) + struct.pack("<II", 4, value)


def string(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def described(name: str, shape: tuple[int, ...], *, kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's description; `shape` innermost first, as the format has it."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def whole(
    values: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """A file."""
    stated = (len(tensors), len(values)) if counts is None else counts
    head = magic + struct.pack("<IQQ", version, *stated) + b"".join([*values, *tensors])
    return head + bytes(-len(head) % alignment) + data


def floats(*numbers: float) -> bytes:
    array: Any = np.array(numbers, np.float32)
    return bytes(array.tobytes())
