"""The digest of what a graph computes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["graph_digest"]


def graph_digest(model: ir.Model) -> str:
    """SHA-256 of what a graph computes: operators, wiring, attributes and weights, but no metadata."""
    digest = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(f"{value.name}:{value.dtype}:{value.shape}\n".encode())
    for name in sorted(model.graph.initializers):
        tensor = model.graph.initializers[name].const_value
        if tensor is not None:
            digest.update(f"{name}:{tensor.dtype}:{tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
    for node in model.graph:
        inputs = [v.name if v is not None else "" for v in node.inputs]
        attributes = sorted(f"{k}={v.value!r}" for k, v in node.attributes.items())
        digest.update(f"{node.domain}:{node.op_type}:{inputs}:{[o.name for o in node.outputs]}".encode())
        digest.update(f"{attributes}\n".encode())
    return digest.hexdigest()
