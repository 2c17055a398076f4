"""Reading and writing ONNX graphs: the one place that decides about external data."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_calibration.bodies import all_graphs
from aigc_runtime.errors import OutputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["EXTERNAL_THRESHOLD", "save_graph", "to_proto", "weight_bytes"]

EXTERNAL_THRESHOLD = 2**26
"""Weights from this size on go to a file beside the graph: a message is in memory twice when it is written, a file of
weights is not; and messages end at 2 GiB."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those in bodies of If, Loop and Scan included."""
    tensors = (value.const_value for graph in all_graphs(model) for value in graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Convert a graph to a protobuf message."""
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

    Raises:
        OutputError: no space, no permission; nothing is left there.
    """
    import onnx_ir as ir

    data = None if weight_bytes(model) < threshold else path.with_name(f"{path.name}.data")
    paths = [path] if data is None else [path, data]
    try:
        if data is None:
            ir.save(model, path)
        else:
            ir.save(model, path, external_data=data.name, size_threshold_bytes=1024)
    except OSError as err:
        for written in paths:
            with contextlib.suppress(OSError):
                written.unlink()
        raise OutputError(
            f"the graph {str(path)!r} cannot be written: {err.strerror or err}",
            hint="make room there, or set TMPDIR to a larger disk; nothing was published",
        ) from err
    return paths
