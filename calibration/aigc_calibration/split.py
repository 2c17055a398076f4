"""Give each branch of a concatenated skip connection a range of its own.

The two halves of `Concat(upsampled, skip)` differ in magnitude, and one scale for both rounds the smaller coarsely
(Li et al. 2023, "Q-Diffusion", section 3.2, splits the quantizers of such shortcuts). A convolution and a product are
linear in their channels, so that the sum over all channels is a sum over the branches:

    Conv(Concat(a, b), W, bias)  ->  Add(Conv(a, W[:, :A], bias), Conv(b, W[:, A:]))
    MatMul(Concat(a, b), W)      ->  Add(MatMul(a, W[:A]), MatMul(b, W[A:]))

Each product then has a range, and weights a scale per channel, of its own. Cases:

1. Conv without groups, whose input is a Concat along the channels; MatMul with a matrix, along the last axis.
2. All branches must have a number of channels that the graph knows.
3. Anything else is left as it is; a Concat that others read as well stays for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_calibration.prepare import copy_graph
from aigc_calibration.sites import find_sites, weight_array

if TYPE_CHECKING:
    import onnx_ir as ir

    from aigc_calibration.sites import Site

__all__ = ["split_skips"]


def split_skips(model: ir.Model) -> tuple[ir.Model, int]:
    """Split every site of a prepared graph that reads a concatenation; returns a copy, and how many were split."""
    model = copy_graph(model)
    nodes = {str(n.name): n for n in model.graph}
    split = 0
    for site in find_sites(model):
        node = nodes[site.node]
        sizes = _branch_sizes(node, site)
        if sizes:
            _split(model, node, site, sizes)
            split += 1
    return model, split


def _branch_sizes(node: ir.Node, site: Site) -> list[int]:
    """Count the channels of every branch; empty where the site is not one of the cases."""
    value = node.inputs[0]
    concat = None if value is None else value.producer()
    if site.weight is None or concat is None or concat.op_type != "Concat" or len(concat.inputs) < 2:
        return []
    shapes = [None if branch is None else branch.shape for branch in concat.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return []
    rank, axis = len(known[0]), concat.attributes["axis"].as_int()
    if site.op_type == "Conv" and node.attributes.get_int("group", 1) == 1:
        wanted = 1
    elif site.op_type == "MatMul" and len(site.shape) == 2:
        wanted = rank - 1
    else:
        return []
    sizes = [shape[wanted] for shape in known]
    if axis % rank != wanted or not all(isinstance(size, int) for size in sizes):
        return []
    channels = [int(size) for size in sizes if isinstance(size, int)]
    return channels if sum(channels) == site.shape[site.input_axis] else []


def _split(model: ir.Model, node: ir.Node, site: Site, sizes: list[int]) -> None:
    import onnx_ir as ir

    graph, result = model.graph, node.outputs[0]
    concat = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert concat is not None
    weight = weight_array(model, str(site.weight))
    parts = np.split(weight, np.cumsum(sizes)[:-1], axis=site.input_axis)
    made: list[ir.Node] = []
    total: ir.Value | None = None
    for i, (branch, part) in enumerate(zip(concat.inputs, parts, strict=True)):
        inputs = [branch, add_constant(graph, f"{site.weight}_part{i}", np.ascontiguousarray(part))]
        if i == 0:  # the bias once
            inputs += list(node.inputs[2:])
        piece = ir.Node("", node.op_type, inputs, list(node.attributes.values()), name=f"{node.name}_part{i}")
        piece.metadata_props.update(node.metadata_props)
        _like(piece.outputs[0], result, f"{result.name}_part{i}")
        made.append(piece)
        if total is None:
            total = piece.outputs[0]
            continue
        made.append(ir.node("Add", [total, piece.outputs[0]], name=f"{node.name}_sum{i}"))
        total = made[-1].outputs[0]
        _like(total, result, f"{result.name}_sum{i}")
    assert total is not None
    name = result.name
    graph.insert_before(node, made)
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    total.name = name
    if not list(concat.outputs[0].uses()) and not concat.outputs[0].is_graph_output():
        graph.remove(concat, safe=True)
    del graph.initializers[str(site.weight)]


def _like(value: ir.Value, other: ir.Value, name: str) -> None:
    value.name, value.shape, value.type = name, other.shape, other.type
