"""All rewrites of a decoder, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigc_calibration.prepare import copy_graph
from aigc_export.graphs.passes import Pass
from aigc_export.graphs.passes.decoder.cache_pattern import match_append
from aigc_export.graphs.passes.decoder.cached_attention import fuse_cached_attention
from aigc_export.graphs.passes.decoder.packed_products import pack_products
from aigc_export.graphs.passes.decoder.skip_norm import fuse_skip_norms

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["DECODER", "fuse_decoder"]

DECODER: tuple[tuple[str, Pass], ...] = (
    ("pack-products", pack_products),
    ("fuse-cached-attention", fuse_cached_attention),
    ("fuse-skip-norms", fuse_skip_norms),
)
"""(name, rewrite) in order: queries, keys and values are one value before the attention takes them."""


def fuse_decoder(model: ir.Model) -> ir.Model:
    """Rewrite a copy of a graph that carries a cache of keys or values for ONNX Runtime on a CPU.

    1. A graph of which an output is an input with new steps behind or inside it: `DECODER`, in order.
    2. Any other graph: returned as it is.

    Runs on the graph that is built, quantized or not: see docs/adr/0039-decoder-graph.md. The graph that is given stays
    as it was.
    """
    if not any(match_append(value) for value in model.graph.outputs):
        return model
    model = copy_graph(model)
    for _, rewrite in DECODER:
        model = rewrite(model)
    return model
