"""Safetensors files, checked tensor by tensor before any number is read, and read one tensor at a time.

The format (huggingface/safetensors, README): 8 bytes that hold the header's size, the header (JSON: name -> dtype,
shape and the place of its bytes behind the header), and the bytes of all tensors without gaps. The library checks most
of this, too; here every fault is reported by the tensor's name, and what the library passes over is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import open_plain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["StoredTensor", "Tensors", "TensorsFile", "open_tensors_file", "parse_tensors"]

MAX_HEADER_BYTES = 100 * 1024 * 1024
METADATA = "__metadata__"
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""The format's name of a type -> PyTorch's name, and bytes.

8-bit floats are not read: they are codes, whose scales stand elsewhere.
"""
_CHUNK = 1 << 24
_HINT = "the file is damaged, or was not written by safetensors: get it again"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        kind: of its numbers, a key of `DTYPES`.
        shape: of the tensor.
        first: byte of the file where its numbers begin.
        last: byte behind them.
    """

    kind: str
    shape: tuple[int, ...]
    first: int
    last: int

    @property
    def type_name(self) -> str:
        """The type of its numbers, as PyTorch calls it."""
        return DTYPES[self.kind][0]

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers, PyTorch's own."""
        import torch

        found: torch.dtype = getattr(torch, self.type_name)
        return found

    def empty(self) -> Tensor:
        """Make memory for its numbers."""
        import torch

        return torch.empty(self.shape, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class TensorsFile:
    """A safetensors file whose header was read and checked; its numbers are still on the disk.

    Attributes:
        path: of the file.
        tensors: name -> tensor, in the order of their bytes.
        metadata: the header's free strings.
        header: the bytes in front of the first tensor.
        changed: size and time of the last change, in nanoseconds: a file that changes is refused.
    """

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    header: bytes
    changed: tuple[int, int]

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            CheckpointError: the file cannot be read, or was changed since it was opened.
        """
        stored = self.tensors[name]
        tensor = stored.empty()
        with self._opened() as file:
            file.seek(stored.first)
            self._fill(file, _memory(tensor))
        return tensor

    def stream(
        self, into: Callable[[str], Tensor | None], *, seen: Callable[[memoryview], object]
    ) -> Iterator[tuple[str, Tensor]]:
        """Read all tensors, one at a time and each byte once.

        Args:
            into: name -> where its numbers go, if that has its type and lies in one piece; else None or any other.
            seen: called with every piece of the file in its order, such as a digest.

        Raises:
            CheckpointError: as in `read`.
        """
        with self._opened() as file:
            file.seek(len(self.header))
            seen(memoryview(self.header))  # the very bytes that were parsed
            for name, stored in self.tensors.items():
                tensor = into(name)
                if tensor is None or tensor.dtype != stored.dtype or not tensor.is_contiguous():
                    tensor = stored.empty()
                memory = _memory(tensor)
                self._fill(file, memory)
                seen(memory)
                yield name, tensor

    def _opened(self) -> BinaryIO:
        file = os.fdopen(open_plain(self.path, error=CheckpointError), "rb", buffering=0)
        if _changed(file) != self.changed:
            file.close()
            raise self._was_changed()
        return file

    def _fill(self, file: BinaryIO, memory: memoryview) -> None:
        """Read as many bytes as `memory` has, from a file that does not change meanwhile."""
        at = 0
        try:
            while at < len(memory) and (count := file.readinto(memory[at : at + _CHUNK])):  # type: ignore[attr-defined]
                at += count
        except OSError as err:
            raise _unreadable(self.path, err) from err
        if at < len(memory) or _changed(file) != self.changed:
            raise self._was_changed()

    def _was_changed(self) -> CheckpointError:
        return CheckpointError(
            f"{str(self.path)!r} was changed while it was read", hint="wait until it is written, and try again"
        )


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a tensor that lies in one piece."""
    if not tensor.numel():
        return memoryview(b"")
    import torch

    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _changed(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _unreadable(path: Path, err: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read {str(path)!r}: {err.strerror}", hint="check the disk it is on")


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The tensors of a file that is in memory.

    Attributes:
        tensors: by name.
        metadata: the header's free strings.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def parse_tensors(data: bytes, *, what: str) -> Tensors:
    """Read the bytes of a safetensors file.

    Args:
        data: the whole file.
        what: its path, for messages.

    Raises:
        CheckpointError: another format, a header that names a tensor twice or does not fit the bytes behind it, a type
            that is not read; names the tensor.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, metadata = _read_header(data[: _header_end(data, len(data), what)], len(data), what)
    try:
        tensors = load(data)
    except SafetensorError as err:
        raise CheckpointError(f"{what!r} is corrupt: {err}", hint=_HINT) from err
    if tensors.keys() != header.keys():
        raise CheckpointError(f"{what!r} is corrupt: tensors are missing or extra after reading it", hint=_HINT)
    return Tensors(tensors=tensors, metadata=metadata)


def open_tensors_file(path: Path) -> TensorsFile:
    """Open a safetensors file: its size and header say whether it is a whole one.

    So nothing else is read into memory, however large it is.

    Raises:
        CheckpointError: see `parse_tensors`; or it cannot be read.
    """
    what = str(path)
    try:
        with os.fdopen(open_plain(path, error=CheckpointError), "rb") as file:
            changed = _changed(file)
            start = file.read(9)
            start += file.read(_header_end(start, changed[0], what) - len(start))
    except OSError as err:
        raise _unreadable(path, err) from err
    tensors, metadata = _read_header(start, changed[0], what)
    return TensorsFile(path=path, tensors=tensors, metadata=metadata, header=start, changed=changed)


def _read_header(start: bytes, total: int, what: str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read a file's header: its tensors and its free strings; the tensors' places fill the file exactly."""
    header = loads_strict(start[8:], what=f"the header of {what!r}", error=CheckpointError)
    metadata = _metadata(header.pop(METADATA, {}), what)
    tensors = {name: _stored(name, entry, len(start), what) for name, entry in header.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].first, item[1].last, item[0])))
    _check_places(tensors, len(start), total, what)
    return tensors, metadata


def _header_end(data: bytes, total: int, what: str) -> int:
    """Find where the header ends, from the first nine bytes of a file of `total`."""
    size = int.from_bytes(data[:8], "little")
    # A header's size may begin with the very bytes of a zip file or a pickle: what follows it decides.
    if len(data) > 8 and data[8:9] == b"{" and size <= min(total - 8, MAX_HEADER_BYTES):
        return 8 + size
    if data[:2] == b"PK" or data[:1] == b"\x80":
        raise CheckpointError(
            f"{what!r} is a pickle-based PyTorch file, which can run code when loaded",
            hint="where you trust it: safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'model.safetensors')",
        )
    if data[:4] == b"GGUF":
        raise CheckpointError(
            f"{what!r} is a GGUF file by another name", hint="rename it: names of those that are read end with .gguf"
        )
    raise CheckpointError(
        f"{what!r} is not a safetensors file, or is cut short", hint="copy it again from where it came from"
    )


def _metadata(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{what!r}: {METADATA} of its header is not an object of strings", hint=_HINT)
    return value


def _stored(name: str, entry: Any, start: int, what: str) -> StoredTensor:
    """Read the description of a tensor, whose place counts from `start`."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} is described by {_fields(entry)}, expected dtype, shape, data_offsets",
            hint=_HINT,
        )
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} is of type {dtype!r}, which is not read",
            hint=f"save it as one of {', '.join(sorted(DTYPES))}; quantized weights must be float ones again",
        )
    if not _sizes(shape) or not _sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise CheckpointError(f"{what!r}: tensor {name!r} has shape {shape} and data_offsets {place}", hint=_HINT)
    needed = math.prod(shape) * DTYPES[dtype][1]
    if place[1] - place[0] != needed:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} of type {dtype} and shape {shape} needs {needed:,} bytes, "
            f"its data_offsets {place} hold {place[1] - place[0]:,}",
            hint=_HINT,
        )
    return StoredTensor(kind=dtype, shape=tuple(shape), first=start + place[0], last=start + place[1])


def _fields(entry: Any) -> str:
    return ", ".join(entry) or "nothing" if isinstance(entry, dict) else type(entry).__name__


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_places(tensors: dict[str, StoredTensor], start: int, total: int, what: str) -> None:
    """Refuse bytes that belong to two tensors or to none: a reader may see other numbers than the writer meant."""
    end, before = start, "the header"
    for name, stored in tensors.items():
        if stored.last > total:
            raise CheckpointError(
                f"{what!r} is cut short: tensor {name!r} ends at byte {stored.last - start:,} of {total - start:,}",
                hint="copy it again from where it came from",
            )
        if stored.first != end:
            fault = "overlaps" if stored.first < end else f"lies {stored.first - end:,} bytes behind"
            raise CheckpointError(f"{what!r}: tensor {name!r} {fault} {before}", hint=_HINT)
        end, before = stored.last, f"tensor {name!r}"
    if end != total:
        raise CheckpointError(f"{what!r} holds {total - end:,} bytes behind its last tensor", hint=_HINT)
