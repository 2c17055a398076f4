"""Reading and writing ONNX graphs: the one place that decides about external data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["EXTERNAL_THRESHOLD", "save_graph", "to_proto", "weight_bytes"]

EXTERNAL_THRESHOLD = 2**31 - 2**24
"""Weights from this size on go to a file beside the graph: protobuf messages end at 2 GiB, the rest is for nodes."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initialisers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The graph as a protobuf message."""
    import onnx_ir as ir

    return ir.to_proto(model)


def save_graph(model: ir.Model, path: Path, *, threshold: int = EXTERNAL_THRESHOLD) -> list[Path]:
    """Write a graph; weights of `threshold` bytes or more in all go to `<name>.data` beside it.

    Args:
        model: the graph.
        path: of the .onnx file.
        threshold: bytes.

    Returns:
        The files written.
    """
    import onnx_ir as ir

    if weight_bytes(model) < threshold:
        ir.save(model, path)
        return [path]
    data = f"{path.name}.data"
    ir.save(model, path, external_data=data, size_threshold_bytes=1024)
    return [path, path.parent / data]
