"""Weights on the disk: one safetensors file or several shards, of which a tensor at a time is read into memory."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aigc_models.weights.safetensors_file import StoredTensor, TensorsFile, open_tensors_file
from aigc_models.weights.shard_index import is_index, open_shards

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HashedWeights", "StoredWeights", "WeightsReader"]


class WeightsReader(Protocol):
    """Weights that are described at once and read one after the other."""

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""
        ...

    def stream(self, into: Callable[[str], Tensor | None] = ...) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors; see `StoredWeights.stream`."""
        ...


class HashedWeights(Mapping[str, "Tensor"]):
    """The tensors of files by name, none of which is kept in memory: each look-up reads one."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Digest of the files."""

    @abstractmethod
    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""

    @abstractmethod
    def stream(self, into: Callable[[str], Tensor | None] = ...) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors; see `StoredWeights.stream`."""


class StoredWeights(HashedWeights):
    """The tensors of a checkpoint in safetensors files.

    Args:
        path: of a safetensors file, or of the index of shards.

    Attributes:
        notes: for the user.

    Raises:
        CheckpointError: a file is missing, damaged or foreign, or the index and its shards differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._index: bytes | None = None
        if is_index(path):
            shards = open_shards(path)
            self._index, self._files, self.notes = shards.index, shards.files, shards.notes
        else:
            self._files = (open_tensors_file(path),)
        self._file_of: dict[str, TensorsFile] = {name: file for file in self._files for name in file.tensors}
        self._sha256 = ""

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    @property
    def metadata(self) -> dict[str, str]:
        """The free strings of the first file that has some."""
        return next((file.metadata for file in self._files if file.metadata), {})

    @property
    def float32_bytes(self) -> int:
        """Bytes of all tensors where every number takes four."""
        return 4 * sum(math.prod(stored.shape) for file in self._files for stored in file.tensors.values())

    @property
    def headers(self) -> Iterator[tuple[str, StoredTensor]]:
        """What the headers say of every tensor, which takes no PyTorch to read."""
        return ((name, stored) for file in self._files for name, stored in file.tensors.items())

    @property
    def sha256(self) -> str:
        """SHA-256 of the file; of shards, of what `sha256sum` prints for the index and then the shards by name.

        It is that of the bytes that `stream` gave, or reads them once.
        """
        if not self._sha256:
            for _ in self.stream():
                pass
        return self._sha256

    def described(self) -> dict[str, Tensor]:
        """Describe every tensor by one of its type and shape without numbers."""
        import torch

        return {
            name: torch.empty(stored.shape, dtype=stored.dtype, device="meta")
            for file in self._files
            for name, stored in file.tensors.items()
        }

    def stream(self, into: Callable[[str], Tensor | None] = lambda _: None) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors in the order of their bytes, each byte once.

        Args:
            into: as in `TensorsFile.stream`: name -> where its numbers go, if that has its type.

        Raises:
            CheckpointError: a file cannot be read, or was changed since it was opened.
        """
        digests = {} if self._index is None else {self.path.name: hashlib.sha256(self._index).hexdigest()}
        for file in self._files:
            digest = hashlib.sha256()
            yield from file.stream(into, seen=digest.update)
            digests[file.path.name] = digest.hexdigest()
        if self._index is None:
            (self._sha256,) = digests.values()
        else:
            lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
            self._sha256 = hashlib.sha256(lines.encode()).hexdigest()
