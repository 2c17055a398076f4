"""Products that were several before: which constants became one.

A rewrite that makes one product of several notes the names of their weights at it, so that what an engine runs can
still be told site by site.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_calibration.bodies import proto_nodes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["note_packed", "packed_constants"]

_KEY = "aigc.packed"


def note_packed(node: ir.Node, names: Sequence[str]) -> None:
    """Note at a product the names of the constants that its weight was made of."""
    node.metadata_props[_KEY] = json.dumps(list(names))


def packed_constants(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """Map the name of each packed weight to those of the constants that it was made of."""
    return {
        node.input[1]: tuple(json.loads(entry.value))
        for node in proto_nodes(graph)
        for entry in node.metadata_props
        if entry.key == _KEY
    }
