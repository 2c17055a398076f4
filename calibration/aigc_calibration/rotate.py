"""Rotate residual streams, so that no channel of them is many times as large as the others.

Language models write numbers of hundreds into a few channels of their streams. What reads them is rounded with steps
for such numbers, which leaves a few codes to all the others. Rotated, each channel has a part of every other, and all
are about as large (Ashkboos et al. 2024, "QuaRot", section 4, stage 1a; Liu et al. 2024, "SpinQuant", R1). The rotation
goes into the weights: nothing is computed for it. There it is a Hadamard matrix behind RMS norms; here a random
orthogonal one that keeps the mean of a row, so that layer norms rotate as well (`residual_streams`).

Before:  x = Add(Gather(T, ids), MatMul(h, W)); y = MatMul(Mul(norm(x), g), V) + c
After:   x = Add(Gather(T R, ids), MatMul(h, W R)); y = MatMul(norm(x), R^T diag(g) V) + c

1. A LayerNormalization's bias b is added to what its readers make: b V.
2. The gain is gone: its Mul is left out, a LayerNormalization gets ones.
3. Rotated values get names of their own: what looks a value up by its name finds the one that it knows, or none.
4. A graph without a stream stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.edit import add_constant
from aigc_calibration.prepare import copy_graph
from aigc_calibration.residual_streams import ReadNorm, ResidualStream, residual_streams
from aigc_calibration.sites import Site, weight_array
from aigc_calibration.smooth import read_once
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["rotate", "rotation"]


def rotation(width: int, seed: int = 0) -> Array:
    """Draw an orthogonal matrix whose rows and columns sum to 1, [width, width] float64.

    It is B diag(1, Q) B^T with Q of the QR decomposition of normal numbers (Mezzadri 2007, "How to generate random
    matrices from the classical compact groups") and B a reflection that maps (1, 0, ..., 0) to the direction of ones.
    """
    random = np.random.default_rng(seed).standard_normal((width - 1, width - 1))
    q, r = np.linalg.qr(random)
    inner = np.eye(width)
    inner[1:, 1:] = q * np.sign(np.diagonal(r))
    axis = np.full(width, -(width**-0.5))
    axis[0] += 1
    if norm := float(axis @ axis):
        inner -= np.outer(axis, axis @ inner) * (2 / norm)
        inner -= np.outer(inner @ axis, axis) * (2 / norm)
    return inner


def rotate(model: ir.Model) -> tuple[ir.Model, int]:
    """Rotate every stream of a prepared graph; returns a copy, and how many there are.

    The constants that it makes are kept, as large as the weights of the graph, and not computed wherever they are read.
    """
    streams = residual_streams(model)
    if not streams:
        return model, 0
    made = copy_graph(model)
    for seed, stream in enumerate(streams):
        _rotate(made, stream, rotation(stream.width, seed).astype(np.float32))
    return made, len(streams)


def _rotate(model: ir.Model, stream: ResidualStream, matrix: Array) -> None:
    nodes = {str(node.name): node for node in model.graph}
    named = set(stream.values)
    for value in (v for node in model.graph for v in node.outputs if v.name in named):
        value.name = f"{value.name}_rotated"
    for norm in stream.norms:
        _fold(model, norm, nodes)
    for site in stream.sites:
        _rotate_constant(model, str(site.weight), site.input_axis, matrix)
    for name, axis in stream.writers:
        _rotate_constant(model, name, axis, matrix)


def _rotate_constant(model: ir.Model, name: str, axis: int, matrix: Array) -> None:
    """Multiply every row of a constant along an axis by a matrix."""
    values = np.moveaxis(weight_array(model, name), axis, -1) @ matrix
    _replace(model, name, np.moveaxis(values, -1, axis))


def _replace(model: ir.Model, name: str, values: Array) -> None:
    import onnx_ir as ir

    model.graph.initializers[name].const_value = ir.Tensor(np.ascontiguousarray(values, np.float32), name=name)


def _fold(model: ir.Model, norm: ReadNorm, nodes: dict[str, ir.Node]) -> None:
    """Give the gain and the bias of a norm to the products that read it."""
    node = nodes[norm.node]
    gain = weight_array(model, norm.gain)
    for site in norm.readers:
        name = str(site.weight)
        weight = np.moveaxis(weight_array(model, name), site.input_axis, 0)  # [D, N]
        if norm.bias is not None:
            _add_bias(model, nodes[site.node], site, weight_array(model, norm.bias) @ weight)
        _replace(model, name, np.moveaxis(weight * gain[:, None], 0, site.input_axis))
    if node.op_type == "Mul":
        source = next(v for v in node.inputs if v is not None and v.name != norm.gain)
        node.outputs[0].replace_all_uses_with(source)
        model.graph.remove(node, safe=True)
        del model.graph.initializers[norm.gain]
        return
    _replace(model, norm.gain, np.ones_like(gain))
    if norm.bias is not None:
        _replace(model, norm.bias, np.zeros_like(gain))


def _add_bias(model: ir.Model, node: ir.Node, site: Site, bias: Array) -> None:
    """Add numbers [N] to what a product makes: to the bias that it has, or by an Add of their own."""
    import onnx_ir as ir

    held = node.inputs[2] if len(node.inputs) > 2 else None
    result = node.outputs[0]
    if held is None:
        uses = list(result.uses())
        following = uses[0][0] if len(uses) == 1 and not result.is_graph_output() else None
        if following is not None and following.op_type == "Add" and following.graph is model.graph:
            held = next((v for v in following.inputs if v is not None and v is not result), None)
    if held is not None and held.const_value is not None and read_once(held) and held.const_value.shape == bias.shape:
        _replace(model, str(held.name), weight_array(model, str(held.name)) + bias)
        return
    value = ir.Value(name=result.name, shape=result.shape, type=result.type)
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    constant = add_constant(model.graph, f"{site.node}_norm_bias", bias)
    added = ir.node("Add", [result, constant], outputs=[value], name=f"{site.node}_norm_bias_add")
    added.metadata_props.update(node.metadata_props)
    model.graph.insert_after(node, added)
    result.name = f"{result.name}_product"
