"""Group sites that do the same in a network: the first products of all its layers, then the second ones.

Layers are often stacked, and the same product of several layers often costs alike in few bits. What a site does is read
from the graph: the shape of its weight, and what stands in front of it and behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aigc_calibration.sites import find_sites

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["by_role"]

REACH = 3
"""Operators in a row behind a site that tell its role."""


def by_role(model: ir.Model, nodes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group sites by role, in the order in which roles first appear, and those of one role as they were.

    Args:
        model: the float graph.
        nodes: names of sites.
    """
    sites = {site.node: site for site in find_sites(model)}
    found = {str(node.name): node for node in model.graph if str(node.name) in sites}
    groups: dict[object, list[str]] = {}
    for name in nodes:
        node, site = found[name], sites[name]
        producer = None if node.inputs[0] is None else node.inputs[0].producer()
        role = (site.op_type, site.shape, "" if producer is None else producer.op_type, _behind(node, REACH))
        groups.setdefault(role, []).append(name)
    return tuple(map(tuple, groups.values()))


def _behind(node: ir.Node, reach: int) -> tuple[object, ...]:
    """The operators that read a node's results, and those that read theirs, sorted by name."""
    readers = [reader for value in node.outputs for reader, _ in value.uses()]
    if not reach:
        return ()
    return tuple(sorted((reader.op_type, _behind(reader, reach - 1)) for reader in readers))
