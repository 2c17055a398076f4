"""Group sites by kind: the same operator on the same sizes, in the same two precisions.

What one of them gains by low precision, the others gain too, so that time is measured once per kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aigc_calibration.onnx_function import Feeds, open_onnx
from aigc_calibration.search.pair import PrecisionPair
from aigc_calibration.sites import find_sites

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["site_kinds"]


def site_kinds(pair: PrecisionPair, feeds: Feeds) -> dict[str, tuple[str, ...]]:
    """Group the sites that could run in low precision by kind.

    Args:
        pair: plans in both precisions.
        feeds: of one run, of the sizes that count.
    """
    model = pair.graph
    sites = {s.node: s for s in find_sites(model)}
    low = pair.low.quantized()
    wanted = sorted({a for op in low for a in sites[op.node].activations})
    values = {**feeds, **open_onnx(model, expose=wanted)(feeds)}
    nodes: Mapping[str, ir.Node] = {str(n.name): n for n in model.graph}
    kept_high = {} if pair.high is None else {op.node: op.precision for op in pair.high.ops}
    kinds: dict[str, list[str]] = {}
    for op in low:
        site = sites[op.node]
        attributes = sorted(f"{k}={v.value!r}" for k, v in nodes[op.node].attributes.items())
        shapes = [list(values[a].shape) for a in site.activations]
        kind = (
            f"{site.op_type} {' '.join(attributes)} {shapes} x {list(site.shape)}, "
            f"bias {site.bias is not None}, result {op.output is not None}, "
            f"{op.precision} / {kept_high.get(op.node, 'float')}"
        )
        kinds.setdefault(kind, []).append(op.node)
    return {kind: tuple(names) for kind, names in kinds.items()}
