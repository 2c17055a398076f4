"""Fold batch normalization into the product in front of it, where a Reshape hides one from the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import all_graphs

if TYPE_CHECKING:
    import onnx_ir as ir

    from aigc_runtime.core.tensors import Array

__all__ = ["fold_batch_norm"]

DEFAULT_EPSILON = 1e-5
"""Of BatchNormalization (ONNX operators, BatchNormalization-15)."""


def fold_batch_norm(model: ir.Model) -> ir.Model:
    """Fold batch normalization into the Gemm before it; changes the model.

    Graph before: `BatchNormalization(Reshape(Gemm(x, W, b)))`; after: `Reshape(Gemm(x, W', b'))`.

    In inference it is one multiplication and one addition per channel (Ioffe & Szegedy 2015, algorithm 2), which
    commute with a Reshape of features [N, C * H * W] into channels [N, C, H, W]: feature f belongs to channel
    f // (H * W). `onnxslim` folds it into convolutions, which no Reshape separates from it.

    1. A Reshape from [N, C * S] to [N, C, S...], with S any sizes, between a Gemm without factors and a normalization
       in inference, all of whose constants are known: folded.
    2. A product whose weight, or whose result, is read elsewhere, in a body of If, Loop or Scan too: left as it is.
    3. All three nodes inside one body, or one function: folded there. A normalization in a body of a product outside
       of it: left as it is.

    Opset 9 and later, with BatchNormalization's `training_mode` (opset 14) off.
    """
    for graph in all_graphs(model):
        for node in list(graph):
            if node.op_type == "BatchNormalization" and len(node.outputs) == 1:
                _fold(graph, node)
    return model


def _fold(graph: ir.Graph, norm: ir.Node) -> None:
    reshape = _sole_producer(norm, "Reshape")
    gemm = None if reshape is None else _sole_producer(reshape, "Gemm")
    factors = _factors(norm)
    if reshape is None or gemm is None or factors is None or gemm.graph is not graph or reshape.graph is not graph:
        return
    alpha, beta = (float(gemm.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
    weight, bias = _own_constant(gemm, 1), _own_constant(gemm, 2)
    axis = 0 if _flag(gemm, "transB") else 1
    if weight is None or bias is None or (alpha, beta) != (1.0, 1.0) or _flag(gemm, "transA"):
        return
    features, channels = weight.shape[axis], len(factors[0])
    if bias.shape != (features,) or not _splits_features(reshape, channels, features):
        return
    scale, shift = (np.repeat(factor, features // channels) for factor in factors)
    shaped = scale[:, None] if axis == 0 else scale[None, :]
    _replace(gemm, 1, weight.astype(np.float64) * shaped)
    _replace(gemm, 2, bias.astype(np.float64) * scale + shift)
    # What the Reshape gives is now the normalized value, and is called so; the product is no value of the module.
    name = str(norm.outputs[0].name)
    gemm.outputs[0].name = f"{gemm.outputs[0].name}_normalized"
    result = reshape.outputs[0]
    if norm.outputs[0] in graph.outputs:
        result.shape, result.type = norm.outputs[0].shape, norm.outputs[0].type
        graph.outputs[graph.outputs.index(norm.outputs[0])] = result
    norm.outputs[0].replace_all_uses_with(result)
    graph.remove(norm, safe=True)
    result.name = name


def _sole_producer(node: ir.Node, op_type: str) -> ir.Node | None:
    """The node behind the first input, if it is of that kind and nobody else reads it."""
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.op_type != op_type or producer.domain:
        return None
    return producer if len(list(value.uses())) == 1 and not value.is_graph_output() else None


def _factors(norm: ir.Node) -> tuple[Array, Array] | None:
    """Compute what a batch normalization multiplies by and adds, [C] float64 each."""
    constants = [None if value is None else value.const_value for value in norm.inputs[1:5]]
    if _flag(norm, "training_mode") or len(constants) != 4 or any(c is None for c in constants):
        return None
    gamma, shift, mean, variance = (c.numpy().astype(np.float64) for c in constants if c is not None)
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", DEFAULT_EPSILON))
    return scale, shift - mean * scale


def _own_constant(node: ir.Node, at: int) -> Array | None:
    """A constant input that this node alone reads."""
    value = node.inputs[at] if len(node.inputs) > at else None
    if value is None or value.const_value is None or len(list(value.uses())) != 1:
        return None
    return value.const_value.numpy()


def _splits_features(reshape: ir.Node, channels: int, features: int) -> bool:
    """Check whether a Reshape turns [N, C * S] into [N, C, S...] and nothing else, whatever N."""
    shape = reshape.inputs[1]
    if shape is None or shape.const_value is None:
        return False
    sizes = [int(size) for size in shape.const_value.numpy()]
    return len(sizes) >= 2 and sizes[1] == channels and min(sizes[1:]) > 0 and math.prod(sizes[1:]) == features


def _flag(node: ir.Node, name: str) -> bool:
    return node.attributes.get_int(name, 0) != 0


def _replace(node: ir.Node, at: int, values: Array) -> None:
    import onnx_ir as ir

    value = node.inputs[at]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(values.astype(value.const_value.numpy().dtype), name=value.name)
