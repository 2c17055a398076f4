"""Reading and writing ONNX graphs: the one place that decides about external data."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_graphs
from aigc_runtime.errors import OutputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["EXTERNAL_THRESHOLD", "SharedWeights", "save_graph", "to_proto", "weight_bytes"]

EXTERNAL_THRESHOLD = 2**26
"""Weights from this size on go to a file beside the graph: a message is in memory twice when it is written, a file of
weights is not; and messages end at 2 GiB."""

_MIN_EXTERNAL_BYTES = 1024
_ALIGNMENT = 64
"""As wide as a processor's vectors: an engine may map the file and compute on it as it is."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those in bodies of If, Loop and Scan included."""
    tensors = (value.const_value for graph in all_graphs(model) for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Convert a graph to a protobuf message."""
    import onnx_ir as ir

    return ir.to_proto(model)


class SharedWeights:
    """A file of weights beside several graphs: tensors of equal bytes are in it once.

    Args:
        path: of the file, in the folder of the graphs; made when the first tensor is placed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}
        self._known: dict[int, tuple[ir.TensorProtocol, tuple[int, int]]] = {}

    def place(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Find or write the bytes of a tensor: (offset, length). The same object is known again without reading it."""
        if id(tensor) not in self._known:
            data = tensor.tobytes()
            digest = hashlib.sha256(data).digest()
            if digest not in self._places:
                with self.path.open("ab") as file:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    self._places[digest] = file.tell(), len(data)
                    file.write(data)
            self._known[id(tensor)] = tensor, self._places[digest]  # kept, so that no other gets its id
        return self._known[id(tensor)][1]


def save_graph(
    model: ir.Model, path: Path, *, threshold: int = EXTERNAL_THRESHOLD, shared: SharedWeights | None = None
) -> list[Path]:
    """Write a graph; weights of `threshold` bytes or more in all go to `<name>.data` beside it.

    Args:
        model: the graph.
        path: of the .onnx file.
        threshold: bytes.
        shared: where weights go in place of a file of their own, whatever their size in all.

    Returns:
        The files written.

    Raises:
        OutputError: no space, no permission; nothing is left there.
    """
    import onnx_ir as ir

    if shared is not None:
        return _save_shared(model, path, shared)
    data = None if weight_bytes(model) < threshold else path.with_name(f"{path.name}.data")
    paths = [path] if data is None else [path, data]
    try:
        if data is None:
            ir.save(model, path)
        else:
            ir.save(model, path, external_data=data.name, size_threshold_bytes=_MIN_EXTERNAL_BYTES)
    except OSError as err:
        raise _unwritten(path, paths, err) from err
    return paths


def _save_shared(model: ir.Model, path: Path, shared: SharedWeights) -> list[Path]:
    """Write a graph whose weights are in a file that others read; the graph itself stays as it was."""
    import onnx_ir as ir

    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for graph in all_graphs(model):
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _MIN_EXTERNAL_BYTES:
                    continue
                offset, length = shared.place(tensor)
                kept.append((value, tensor))
                value.const_value = ir.ExternalTensor(
                    location=shared.path.name,
                    offset=offset,
                    length=length,
                    dtype=tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=str(path.parent),
                )
        ir.save(model, path)
    except OSError as err:
        raise _unwritten(path, [path], err) from err
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    return [path, shared.path] if kept else [path]


def _unwritten(path: Path, paths: list[Path], err: OSError) -> OutputError:
    for written in paths:
        with contextlib.suppress(OSError):
            written.unlink()
    return OutputError(
        f"the graph {str(path)!r} cannot be written: {err.strerror or err}",
        hint="make room there, or set TMPDIR to a larger disk; nothing was published",
    )
