"""Weights in a GGUF file, read one tensor at a time as float numbers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from aigc_models.weights.gguf_header import GgufHeader, GgufTensor, read_header
from aigc_models.weights.gguf_types import dequantize, import_gguf
from aigc_models.weights.stored_weights import HashedWeights
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.user_file import open_plain

__all__ = ["GgufFile"]

_CHUNK = 1 << 20
"""Bytes that are read, and computed, at once: computing takes some forty times as many."""


class GgufFile(HashedWeights):
    """A GGUF file whose header was read and checked; its numbers are still on the disk.

    Numbers that are stored as floats keep their type; blocks of quantized ones become float32.

    Args:
        path: of the file.

    Attributes:
        header: what the file says about itself.
        changed: size and time of the last change, in nanoseconds: a file that changes is refused.

    Raises:
        CheckpointError: see `read_header`; or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with os.fdopen(open_plain(path, error=CheckpointError), "rb") as file:
                self.changed = _changed(file)
                self.header: GgufHeader = read_header(file, self.changed[0], what=str(path))
        except OSError as err:
            raise _unreadable(path, err) from err
        self._sha256 = ""

    @property
    def metadata(self) -> dict[str, Any]:
        """What is said of the model: key -> value."""
        return self.header.values

    @property
    def tensors(self) -> dict[str, GgufTensor]:
        """Name -> tensor, in the order of their bytes."""
        return self.header.tensors

    @property
    def quantized(self) -> dict[str, int]:
        """Name of a quantized type -> how many tensors are of it."""
        return dict(Counter(stored.kind.name for stored in self.tensors.values() if stored.kind.dtype is None))

    @property
    def sha256(self) -> str:
        """SHA-256 of the file: of the bytes that `stream` gave, or reads them once."""
        if not self._sha256:
            digest = hashlib.sha256()
            with self._opened() as file:
                self._skip(file, self.changed[0], digest)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""
        return {
            name: torch.empty(stored.shape, dtype=stored.kind.dtype or torch.float32, device="meta")
            for name, stored in self.tensors.items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        stored = self.tensors[name]
        tensor = torch.empty(stored.shape, dtype=stored.kind.dtype or torch.float32)
        with self._opened() as file:
            file.seek(stored.first)
            self._fill(file, stored, tensor, hashlib.sha256())
        return tensor

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors in the order of their bytes, each byte once; see `StoredWeights.stream`.

        Raises:
            CheckpointError: the file cannot be read, or was changed since it was opened.
            GgufMissingError: the package that computes quantized numbers is not installed.
        """
        if self.quantized:
            import_gguf()
        digest, size = hashlib.sha256(), self.changed[0]
        with self._opened() as file:
            for name, stored in self.tensors.items():
                self._skip(file, stored.first, digest)
                tensor, dtype = into(name), stored.kind.dtype or torch.float32
                if tensor is None or tensor.dtype != dtype or not tensor.is_contiguous():
                    tensor = torch.empty(stored.shape, dtype=dtype)
                self._fill(file, stored, tensor, digest)
                yield name, tensor
            self._skip(file, size, digest)
        self._sha256 = digest.hexdigest()

    def _opened(self) -> BinaryIO:
        file = os.fdopen(open_plain(self.path, error=CheckpointError), "rb", buffering=0)
        if _changed(file) != self.changed:
            file.close()
            raise self._was_changed()
        return file

    def _fill(self, file: BinaryIO, stored: GgufTensor, tensor: Tensor, digest: Any) -> None:
        """Read the numbers of a tensor into memory of its type."""
        kind, flat = stored.kind, tensor.view(-1)
        if kind.dtype is not None:
            array: Any = flat.view(torch.uint8).numpy()
            memory = memoryview(array)
            for at in range(0, len(memory), _CHUNK):
                self._read(file, memory[at : at + _CHUNK], digest)
            return
        step, numbers = _CHUNK // kind.size, flat.numpy()
        for block in range(0, flat.numel() // kind.block, step):
            count = min(step, flat.numel() // kind.block - block)
            data: Any = np.empty(count * kind.size, np.uint8)
            self._read(file, memoryview(data), digest)
            numbers[block * kind.block : (block + count) * kind.block] = dequantize(data, kind)

    def _skip(self, file: BinaryIO, to: int, digest: Any) -> None:
        """Read on to a byte of the file."""
        while (left := to - file.tell()) > 0:
            self._read(file, memoryview(bytearray(min(left, _CHUNK))), digest)

    def _read(self, file: BinaryIO, memory: memoryview, digest: Any) -> None:
        """Read as many bytes as `memory` has, from a file that does not change meanwhile."""
        at = 0
        try:
            while at < len(memory) and (count := file.readinto(memory[at:])):  # type: ignore[attr-defined]
                at += count
        except OSError as err:
            raise _unreadable(self.path, err) from err
        if at < len(memory) or _changed(file) != self.changed:
            raise self._was_changed()
        digest.update(memory)

    def _was_changed(self) -> CheckpointError:
        return CheckpointError(
            f"{str(self.path)!r} was changed while it was read", hint="wait until it is written, and try again"
        )


def _changed(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _unreadable(path: Path, err: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read {str(path)!r}: {err.strerror}", hint="check the disk it is on")
