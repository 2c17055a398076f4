"""The digest of what a graph computes."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["graph_digest"]


def graph_digest(model: ir.Model) -> str:
    """Compute the SHA-256 of what a graph computes: operators, wiring, attributes and weights, but no metadata.

    The bodies of If, Loop and Scan are part of it, as are the model's functions.
    """
    digest = hashlib.sha256()
    _add_graph(digest, model.graph)
    for function in sorted(model.functions.values(), key=lambda f: f.identifier()):
        digest.update(f"function {function.identifier()}:{sorted(function.opset_imports.items())}\n".encode())
        for attribute in function.attributes.values():
            _add_attribute(digest, attribute)
        _add_graph(digest, function.graph)
    return digest.hexdigest()


def _add_graph(digest: hashlib._Hash, graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        digest.update(f"{value.name}:{value.dtype}:{value.shape}\n".encode())
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        if tensor is not None:
            _add_tensor(digest, name, tensor)
    for node in graph:
        inputs = [v.name if v is not None else "" for v in node.inputs]
        digest.update(
            f"{node.domain}:{node.op_type}:{node.overload}:{inputs}:{[o.name for o in node.outputs]}".encode()
        )
        for key in sorted(node.attributes):
            _add_attribute(digest, node.attributes[key])
        digest.update(b"\n")


def _add_tensor(digest: hashlib._Hash, name: str, tensor: ir.TensorProtocol) -> None:
    digest.update(f"{name}:{tensor.dtype}:{tensor.shape}\n".encode())
    values = tensor.numpy()
    if values.dtype.kind in "OSU":  # strings, which have no bytes of one size
        digest.update(repr(values.tolist()).encode())
    elif tensor.dtype.bitwidth >= 8 and values.size and sys.byteorder == "little":
        # Where they lie: a copy of a whole vocabulary's weights would be the peak of an export.
        digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    else:
        digest.update(tensor.tobytes())


def _add_attribute(digest: hashlib._Hash, attribute: ir.Attr) -> None:
    """By content: what Python shows of a graph or a large tensor leaves numbers out, and may hold an address."""
    import onnx_ir as ir

    kinds, kind = ir.AttributeType, attribute.type
    digest.update(f"{attribute.name}:{kind}:".encode())
    if attribute.is_ref():
        digest.update(f"@{attribute.ref_attr_name}".encode())
    elif kind in {kinds.GRAPH, kinds.GRAPHS}:
        for body in [attribute.as_graph()] if kind is kinds.GRAPH else attribute.as_graphs():
            digest.update(b"{")
            _add_graph(digest, body)
            digest.update(b"}")
    elif kind in {kinds.TENSOR, kinds.TENSORS}:
        for tensor in [attribute.as_tensor()] if kind is kinds.TENSOR else attribute.as_tensors():
            _add_tensor(digest, "", tensor)
    else:
        digest.update(repr(attribute.value).encode())
    digest.update(b";")
