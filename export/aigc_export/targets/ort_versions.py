"""The oldest ONNX Runtime that loads a graph, where that is newer than the one that the runtime package asks for.

A new form of an operator is refused by older versions when the graph is loaded, in words that name the operator alone.
So what is known here goes into the manifest, and a device is told before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["oldest_version"]

CONTRIB = "com.microsoft"


def _looks_up_bytes(node: ir.Node) -> bool:
    """Whether it looks rows up in a table of 8 bits; of 4 bits older versions do."""
    bits = node.attributes.get("bits")
    is_lookup = (node.domain, node.op_type) == (CONTRIB, "GatherBlockQuantized")
    return is_lookup and bits is not None and bits.as_int() == 8


NEEDS: Mapping[str, Callable[[ir.Node], bool]] = {"1.23": _looks_up_bytes}
"""Version -> what asks for it; tried with onnxruntime 1.20.1, 1.21.1, 1.22.1 and 1.23.2. The newest first."""


def oldest_version(model: ir.Model) -> str:
    """Find the version; empty where every version that the runtime package takes will do."""
    nodes = list(model.graph.all_nodes())
    return next((version for version, asks in NEEDS.items() if any(map(asks, nodes))), "")
