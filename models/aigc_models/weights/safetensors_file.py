"""The bytes of a safetensors file, checked tensor by tensor before the library reads them.

The format (huggingface/safetensors, README): 8 bytes that hold the header's size, the header (JSON: name -> dtype,
shape and the place of its bytes behind the header), and the bytes of all tensors without gaps. The library checks most
of this, too; here every fault is reported by the tensor's name, and what the library passes over is refused.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import open_plain

__all__ = ["Tensors", "check_tensors_file", "parse_tensors"]

MAX_HEADER_BYTES = 100 * 1024 * 1024
METADATA = "__metadata__"
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64"), 8),
    **dict.fromkeys(("F32", "I32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
"""Types that are read -> size of a number. 8-bit floats are not: they are codes, whose scales stand elsewhere."""
_HINT = "the file is damaged, or was not written by safetensors: get it again"


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The tensors of a file.

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


def check_tensors_file(path: Path) -> None:
    """Check from its size and header alone that a file is a whole safetensors file.

    So nothing else is read into memory, however large it is.

    Raises:
        CheckpointError: see `parse_tensors`; or it cannot be read.
    """
    what = str(path)
    try:
        with os.fdopen(open_plain(path, error=CheckpointError), "rb") as file:
            total = os.fstat(file.fileno()).st_size
            start = file.read(9)
            start += file.read(_header_end(start, total, what) - len(start))
    except OSError as err:
        raise CheckpointError(f"cannot read {what!r}: {err.strerror}", hint="check the disk it is on") from err
    _read_header(start, total, what)


def _read_header(start: bytes, total: int, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a file's header: its tensors and its free strings; the tensors' places fill the file exactly."""
    header = loads_strict(start[8:], what=f"the header of {what!r}", error=CheckpointError)
    metadata = _metadata(header.pop(METADATA, {}), what)
    _check_places({name: _place(name, entry, what) for name, entry in header.items()}, total - len(start), what)
    return header, metadata


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
            f"{what!r} is a GGUF file, which is not read", hint="export its weights to safetensors with their own tool"
        )
    raise CheckpointError(
        f"{what!r} is not a safetensors file, or is cut short", hint="copy it again from where it came from"
    )


def _metadata(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{what!r}: {METADATA} of its header is not an object of strings", hint=_HINT)
    return value


def _place(name: str, entry: Any, what: str) -> tuple[int, int]:
    """Find where a tensor's bytes begin and end."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} is described by {_fields(entry)}, expected dtype, shape, data_offsets",
            hint=_HINT,
        )
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} is of type {dtype!r}, which is not read",
            hint=f"save it as one of {', '.join(sorted(ITEM_BYTES))}; quantized weights must be float ones again",
        )
    if not _sizes(shape) or not _sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise CheckpointError(f"{what!r}: tensor {name!r} has shape {shape} and data_offsets {place}", hint=_HINT)
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if place[1] - place[0] != needed:
        raise CheckpointError(
            f"{what!r}: tensor {name!r} of type {dtype} and shape {shape} needs {needed:,} bytes, "
            f"its data_offsets {place} hold {place[1] - place[0]:,}",
            hint=_HINT,
        )
    return place[0], place[1]


def _fields(entry: Any) -> str:
    return ", ".join(entry) or "nothing" if isinstance(entry, dict) else type(entry).__name__


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_places(places: dict[str, tuple[int, int]], size: int, what: str) -> None:
    """Refuse bytes that belong to two tensors or to none: a reader may see other numbers than the writer meant."""
    end, before = 0, "the header"
    for name, (first, last) in sorted(places.items(), key=lambda item: (item[1], item[0])):
        if last > size:
            raise CheckpointError(
                f"{what!r} is cut short: tensor {name!r} ends at byte {last:,} of {size:,}",
                hint="copy it again from where it came from",
            )
        if first != end:
            fault = "overlaps" if first < end else f"lies {first - end:,} bytes behind"
            raise CheckpointError(f"{what!r}: tensor {name!r} {fault} {before}", hint=_HINT)
        end, before = last, f"tensor {name!r}"
    if end != size:
        raise CheckpointError(f"{what!r} holds {size - end:,} bytes behind its last tensor", hint=_HINT)
