"""Rows of the arrays of an `.npz`, read as a stream: nothing is unpickled, and no whole array is ever in memory."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_runtime.core.tensors import Array
from aigc_runtime.io.user_file import open_plain

__all__ = ["Column", "NpzRows"]

SKIP_BYTES = 2**16
"""Read at a time on the way to the next row."""
_HINT = "write it with numpy.savez, from plain arrays of numbers in C order (numpy.ascontiguousarray)"


@dataclass(frozen=True, kw_only=True)
class Column:
    """Type and shape of an array.

    Attributes:
        dtype: of its elements.
        shape: of the whole array.
        member: its name in the archive.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    member: str

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def stand_in(self) -> Array:
        """Make zeros of this type and shape that take no memory."""
        return np.broadcast_to(np.zeros((), dtype=self.dtype), self.shape)


class NpzRows:
    """An `.npz` whose rows are read one by one.

    Args:
        path: the file; it must not change while it is in use.

    Raises:
        CalibrationError: it cannot be read, or is no `.npz` of plain arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, Column] = {}
        with self._archive() as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in self.columns:
                    raise ValueError(f"it holds {name!r} twice")
                with archive.open(entry) as stream:
                    self.columns[name] = _read_header(stream, entry.filename, entry.file_size)

    @classmethod
    def of(cls, path: Path | str | None) -> NpzRows | None:
        """Open a path that is named as an `.npz`; None for any other, and for none.

        Raises:
            CalibrationError: it cannot be read.
        """
        return cls(Path(path)) if path is not None and Path(path).suffix.lower() == ".npz" else None

    def rows(self, name: str, chosen: Array, *, whole: bool = False) -> Generator[Array, None, None]:
        """Yield the rows of an array, one at a time.

        Args:
            name: key of `columns`.
            chosen: their places, ascending.
            whole: read on to the end, where the archive's checksum is compared.

        Raises:
            CalibrationError: the file is damaged.
        """
        column = self.columns[name]
        with self._archive() as archive, archive.open(column.member) as stream:
            if _read_header(stream, column.member, archive.getinfo(column.member).file_size) != column:
                raise ValueError(f"{name!r} has changed since it was opened")
            at = 0
            for place in chosen:
                _skip(stream, (int(place) - at) * column.row_bytes)
                data = _read(stream, column.row_bytes)
                at = int(place) + 1
                yield np.frombuffer(data, dtype=column.dtype).reshape(column.shape[1:])
            if whole:
                _skip(stream, (column.shape[0] - at) * column.row_bytes)
                stream.read(1)

    def batches(self, chosen: Array, size: int, *, whole: bool = False) -> Iterator[dict[str, Array]]:
        """Yield the same rows of every array, `size` at a time."""
        with contextlib.ExitStack() as stack:
            streams = {
                name: stack.enter_context(contextlib.closing(self.rows(name, chosen, whole=whole)))
                for name in self.columns
            }
            for first in range(0, len(chosen), size):
                count = min(size, len(chosen) - first)
                yield {name: np.stack([next(rows) for _ in range(count)]) for name, rows in streams.items()}
            for rows in streams.values():
                next(rows, None)  # on to the end, where there is one to be read

    @contextlib.contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        handle = open_plain(self.path, error=CalibrationError)
        with os.fdopen(handle, "rb") as file, self._reading(), zipfile.ZipFile(file) as archive:
            yield archive

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        what = str(self.path)
        try:
            yield
        except CalibrationError:
            raise
        except OSError as err:
            raise CalibrationError(f"cannot read {what!r}: {err.strerror or err}", hint="check the path") from err
        # RuntimeError: encrypted, or compressed by a method that is not known here.
        except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as err:
            raise CalibrationError(f"{what!r} is not an .npz of plain arrays: {err}", hint=_HINT) from err


def _read_header(stream: IO[bytes], member: str, size: int) -> Column:
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"{member!r} is a .npy of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"{member!r} holds {dtype}, not numbers")
    if fortran:
        raise ValueError(f"{member!r} is in Fortran order, of which rows cannot be read one by one")
    announced = stream.tell() + math.prod(shape) * dtype.itemsize
    if announced != size:
        raise ValueError(f"{member!r} has {size:,} bytes, its header announces {announced:,}")
    return Column(dtype=dtype, shape=tuple(shape), member=member)


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        count -= len(_read(stream, min(count, SKIP_BYTES)))


def _read(stream: IO[bytes], count: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < count:
        piece = stream.read(min(count - len(pieces), SKIP_BYTES))
        if not piece:
            raise EOFError("it ends too early")
        pieces += piece
    return bytes(pieces)
