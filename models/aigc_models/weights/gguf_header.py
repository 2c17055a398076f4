"""The header of a GGUF file: values by key, and where each tensor's bytes are, checked before any number is read.

The format (ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian): the four bytes `GGUF`, the version, the count
of tensors and of values; each value as key, type and content; each tensor as name, dimensions (innermost first), type
and place; then, from the next multiple of `general.alignment` on, the bytes of the tensors.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from aigc_models.weights.gguf_types import GgufType, find_type
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["GgufHeader", "GgufTensor", "read_header"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 2**26
"""Size of a header: several times the largest vocabulary that is published."""
MAX_NAME_BYTES = 2**16
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 2**16
ALIGNMENT = "general.alignment"
_FLOAT32, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Number of a value's type -> numpy's."""
_HINT = "the file is damaged, or was not written by llama.cpp's tools: get it again"


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """A tensor in a file.

    Attributes:
        kind: type of its numbers.
        shape: of the tensor, outermost first.
        first: byte of the file where it begins.
        last: byte behind it.
    """

    kind: GgufType
    shape: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a file says about itself.

    Attributes:
        values: key -> number, string, bool, list of strings or of bools, or numpy array of numbers.
        tensors: name -> tensor, in the order of their bytes.
        data: the bytes in front of the first tensor, without the padding behind them.
    """

    values: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data: bytes


class _Cursor:
    """Reads a file's beginning piece by piece, never more than is there."""

    def __init__(self, file: BinaryIO, total: int, what: str) -> None:
        self._file, self._total, self.what = file, total, what
        self.pieces: list[bytes] = []
        self.at = 0

    def take(self, size: int, of: str) -> bytes:
        """Read the next bytes; `of` says what they are."""
        if size > self._total - self.at:
            raise CheckpointError(
                f"{self.what!r} is cut short: {of} ends at byte {self.at + size:,} of {self._total:,}",
                hint="copy it again from where it came from",
            )
        if self.at + size > MAX_HEADER_BYTES:
            raise self.wrong(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
        data = self._file.read(size)
        if len(data) != size:
            raise CheckpointError(f"{self.what!r} was changed while it was read", hint="try again when it is written")
        self.pieces.append(data)
        self.at += size
        return data

    def number(self, form: str, of: str) -> Any:
        """Read one number of `struct`'s format."""
        return struct.unpack(form, self.take(struct.calcsize(form), of))[0]

    def text(self, of: str, limit: int = MAX_HEADER_BYTES) -> str:
        """Read a string: its size and its bytes."""
        size = self.number("<Q", of)
        if size > limit:
            raise self.wrong(f"{of} has {size:,} bytes")
        try:
            return self.take(size, of).decode("utf-8")
        except UnicodeDecodeError as err:
            raise self.wrong(f"{of} is not UTF-8") from err

    def wrong(self, fault: str) -> CheckpointError:
        """An error about the file."""
        return CheckpointError(f"{self.what!r}: {fault}", hint=_HINT)


def read_header(file: BinaryIO, total: int, *, what: str) -> GgufHeader:
    """Read the header of a file that stands at its beginning.

    Args:
        file: buffered.
        total: bytes of the file.
        what: its path, for messages.

    Raises:
        CheckpointError: another format or version, a file that is cut short, a count or a place that it cannot hold, a
            name that is there twice, a type that is not read; names the key or the tensor.
    """
    cursor = _Cursor(file, total, what)
    _check_magic(cursor, total)
    version = cursor.number("<I", "its version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        order = ": its numbers are big-endian" if swapped in VERSIONS else ""
        raise CheckpointError(
            f"{what!r} is of version {swapped if order else version} of GGUF, which is not read{order}",
            hint=f"versions {', '.join(map(str, VERSIONS))}, little-endian, are",
        )
    tensor_count, value_count = cursor.number("<Q", "its counts"), cursor.number("<Q", "its counts")
    values: dict[str, Any] = {}
    for _ in range(value_count):  # each takes bytes, of which there are not more than the file has
        key = cursor.text("a key", MAX_NAME_BYTES)
        if key in values:
            raise cursor.wrong(f"the key {shown(key)} is there twice")
        values[key] = _value(cursor, cursor.number("<I", f"the value of {shown(key)}"), f"the value of {shown(key)}")
    described = _described(cursor, tensor_count)
    start = _aligned(cursor.at, _alignment(values, cursor))
    tensors = {
        name: GgufTensor(kind=kind, shape=shape, first=start + offset, last=start + offset + _bytes(kind, shape))
        for name, (kind, shape, offset) in described.items()
    }
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].first, item[1].last, item[0])))
    _check_places(tensors, total, cursor)
    return GgufHeader(values=values, tensors=tensors, data=b"".join(cursor.pieces))


def _check_magic(cursor: _Cursor, total: int) -> None:
    if total < len(MAGIC) or cursor.take(len(MAGIC), "its beginning") != MAGIC:
        raise CheckpointError(f"{cursor.what!r} is not a GGUF file", hint="its first four bytes would be 'GGUF'")


def _value(cursor: _Cursor, kind: int, of: str) -> Any:
    """Read one value."""
    if kind == _ARRAY:
        return _array(cursor, of)
    if kind == _STRING:
        return cursor.text(of)
    if kind == _BOOL:
        return _truths(cursor.take(1, of), cursor, of)[0]
    if kind not in _NUMBERS:
        raise cursor.wrong(f"{of} is of type {kind}, which the format does not have")
    number = np.frombuffer(cursor.take(np.dtype(_NUMBERS[kind]).itemsize, of), _NUMBERS[kind])[0]
    # The shortest decimal that is this float32: 1e-05, as it was written before.
    return float(str(number)) if kind == _FLOAT32 else number.item()


def _array(cursor: _Cursor, of: str) -> Any:
    kind, count = cursor.number("<I", of), cursor.number("<Q", of)
    if kind in _NUMBERS:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(cursor.take(count * dtype.itemsize, of), dtype)
    if kind == _BOOL:
        return _truths(cursor.take(count, of), cursor, of)
    if kind == _STRING:
        return [cursor.text(of) for _ in range(count)]
    raise cursor.wrong(f"{of} is an array of type {kind}, which is not read")


def _truths(data: bytes, cursor: _Cursor, of: str) -> list[bool]:
    if (most := max(data, default=0)) > 1:
        raise cursor.wrong(f"{of} is the truth value {most}")
    return [*map(bool, data)]


def _alignment(values: dict[str, Any], cursor: _Cursor) -> int:
    alignment = values.get(ALIGNMENT, 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.wrong(f"{ALIGNMENT} is {shown(alignment)}, expected a power of two up to {MAX_ALIGNMENT:,}")
    return alignment


def _described(cursor: _Cursor, count: int) -> dict[str, tuple[GgufType, tuple[int, ...], int]]:
    """Read each tensor's name, type, shape and place behind the header."""
    found: dict[str, tuple[GgufType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = cursor.text("a tensor's name", MAX_NAME_BYTES)
        of = f"tensor {shown(name)}"
        if name in found:
            raise cursor.wrong(f"{of} is there twice")
        dimensions = cursor.number("<I", of)
        if dimensions > MAX_DIMENSIONS:
            raise cursor.wrong(f"{of} has {dimensions:,} dimensions")
        shape = tuple(cursor.number("<Q", of) for _ in range(dimensions))[::-1]
        kind = find_type(cursor.number("<I", of), tensor=name, what=cursor.what)
        if not shape or 0 in shape or shape[-1] % kind.block:
            raise cursor.wrong(f"{of} of type {kind.name} has the shape {list(shape)}")
        found[name] = (kind, shape, cursor.number("<Q", of))
    return found


def _bytes(kind: GgufType, shape: tuple[int, ...]) -> int:
    return math.prod(shape) // kind.block * kind.size


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _check_places(tensors: dict[str, GgufTensor], total: int, cursor: _Cursor) -> None:
    """Refuse places that are not in the file, or that two tensors share."""
    end, before = 0, ""
    for name, stored in tensors.items():
        if stored.last > total:
            raise CheckpointError(
                f"{cursor.what!r} is cut short: tensor {shown(name)} ends at byte {stored.last:,} of {total:,}",
                hint="copy it again from where it came from",
            )
        if stored.first < end:
            raise cursor.wrong(f"tensor {shown(name)} overlaps tensor {shown(before)}")
        end, before = stored.last, name
