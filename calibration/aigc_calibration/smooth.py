"""SmoothQuant: move outliers of activations into the weights, where a scale per channel can hold them.

For a product x W, any positive s per input channel gives (x / s) (diag(s) W): the same function (Xiao et al. 2023,
"SmoothQuant", eq. 3). s_j = max|x_j|^alpha / max|W_j|^(1 - alpha) (eq. 4), here divided by its geometric mean, which
leaves the scale of the tensor as it was. The division is folded into what makes x:

1. `x = Mul(y, g)` with a constant g per channel (the gain of a normalization): g / s.
2. `x = Mul(y, z)` where y or z is `MatMul(., V)` with a constant V that nothing else reads: columns of V / s.
3. x = y, `Relu(y)` or `Resize(y)` (nearest), where y is a Conv, ConvTranspose, Gemm or BatchNormalization: its
   channels and bias / s, since Relu(y / s) = Relu(y) / s (Nagel et al. 2019, "Data-free quantization", section 4.1).
4. Anything else has no place to fold it into and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from aigc_calibration.computed import computed, sizes_of
from aigc_calibration.prepare import copy_graph
from aigc_calibration.sites import Site, activation_channel_axis, find_sites, output_channel_axis, weight_array
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "SOURCES",
    "SmoothGroup",
    "one_group",
    "read_once",
    "scale_constant",
    "smooth",
    "smooth_scales",
    "smoothable",
]

Source = Literal["gain", "product", "layer"]
SOURCES: tuple[Source, ...] = ("gain", "product", "layer")


@dataclass(frozen=True, kw_only=True)
class SmoothGroup:
    """A value that can be divided per channel, and the constants that are multiplied in return.

    Attributes:
        value: its name.
        channel_axis: where its channels lie.
        sites: the products that read it; nothing else does.
        folds: (constant, axis) that take the division.
        source: which of the cases above: 1, 2 or 3.
    """

    value: str
    channel_axis: int
    sites: tuple[Site, ...]
    folds: tuple[tuple[str, int], ...]
    source: Source


def smoothable(model: ir.Model) -> tuple[SmoothGroup, ...]:
    """Find every group of a prepared graph."""
    readers: dict[str, list[Site]] = {}
    for site in find_sites(model):
        if site.weight is not None and one_group(model, site):
            readers.setdefault(site.activations[0], []).append(site)
    values = {str(v.name): v for n in model.graph for v in n.outputs}
    found = []
    for name, sites in readers.items():
        axes = {activation_channel_axis(s.op_type) for s in sites}
        if name not in values or len(axes) != 1 or values[name].is_graph_output():
            continue
        place = _fold_place(values[name]) if len(list(values[name].uses())) == len(sites) else None
        if place is not None:
            folds, source = place
            found.append(
                SmoothGroup(value=name, channel_axis=axes.pop(), sites=tuple(sites), folds=tuple(folds), source=source)
            )
    return tuple(found)


def one_group(model: ir.Model, site: Site) -> bool:
    """Check whether every output channel of a product sums over all channels of its activation, in their order."""
    if site.op_type == "MatMul":
        return len(site.shape) == 2
    node = next(n for n in model.graph if n.name == site.node)
    if site.op_type == "Gemm":
        return "transA" not in node.attributes or node.attributes["transA"].as_int() == 0
    return "group" not in node.attributes or node.attributes["group"].as_int() == 1


def smooth(model: ir.Model, channel_amax: Mapping[str, Array], alphas: Mapping[Source, float]) -> ir.Model:
    """Fold the scales of every group into a copy of the graph.

    Args:
        model: the prepared float graph.
        channel_amax: value -> [C], the largest magnitude of every channel; a value without is left alone.
        alphas: per source; 0 leaves the activations as they are, 1 makes all their channels equally large. A source
            without one is left alone.
    """
    model = copy_graph(model)
    for group in smoothable(model):
        channels = channel_amax.get(group.value)
        if group.source not in alphas or channels is None or not np.isfinite(channels).all():
            continue
        weights = [(str(s.weight), s.input_axis) for s in group.sites]
        rows = np.max([_row_amax(weight_array(model, name), axis) for name, axis in weights], axis=0)
        s = smooth_scales(channels, rows, alphas[group.source])
        for name, axis in group.folds:
            scale_constant(model, name, axis, 1 / s)
        for name, axis in weights:
            scale_constant(model, name, axis, s)
    return model


def smooth_scales(channels: Array, rows: Array, alpha: float) -> Array:
    """Equation 4, geometric mean 1, within 1e-4 to 1e4; a channel that was never used keeps its place."""
    x, w = np.maximum(channels, 1e-5).astype(np.float64), np.maximum(rows, 1e-5).astype(np.float64)
    s = x**alpha / w ** (1 - alpha)
    s /= np.exp(np.log(s).mean())
    result: Array = np.clip(s, 1e-4, 1e4).astype(np.float32)
    return result


def _row_amax(weight: Array, axis: int) -> Array:
    result: Array = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(axis=1)
    return result


def _fold_place(value: ir.Value) -> tuple[list[tuple[str, int]], Source] | None:
    """The constants that take 1 / s."""
    producer = value.producer()
    if producer is None:
        return None
    if producer.op_type == "Mul":
        return _fold_into_mul(producer)
    while producer is not None and _keeps_channels(producer):
        source = producer.inputs[0]
        if source is None or not read_once(source):
            return None
        producer = source.producer()
    return None if producer is None else _fold_into_layer(producer)


def _keeps_channels(node: ir.Node) -> bool:
    """Check whether a positive factor per channel passes through unchanged."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type == "Relu"


def _fold_into_mul(mul: ir.Node) -> tuple[list[tuple[str, int]], Source] | None:
    operands = [v for v in mul.inputs if v is not None]
    for operand in operands:
        if operand.const_value is not None and len(operand.const_value.shape) == 1 and read_once(operand):
            return [(str(operand.name), 0)], "gain"
    for operand in operands:
        source = operand.producer()
        if source is not None and source.op_type == "MatMul" and read_once(operand):
            weight = source.inputs[1]
            if weight is not None and weight.const_value is not None and read_once(weight):
                return [(str(weight.name), 1)], "product"
    return None


def _fold_into_layer(layer: ir.Node) -> tuple[list[tuple[str, int]], Source] | None:
    if layer.op_type == "BatchNormalization":
        folded = [(layer.inputs[1], 0), (layer.inputs[2], 0)]
    elif layer.op_type in {"Conv", "ConvTranspose", "Gemm"}:
        folded = [
            (layer.inputs[1], output_channel_axis(layer)),
            (layer.inputs[2] if len(layer.inputs) > 2 else None, 0),
        ]
        if "group" in layer.attributes and layer.attributes["group"].as_int() != 1:
            return None
    else:
        return None
    present = [(v, axis) for v, axis in folded if v is not None]
    if not all(v.const_value is not None and read_once(v) for v, _ in present):
        return None
    return [(str(v.name), axis) for v, axis in present], "layer"


def read_once(value: ir.Value) -> bool:
    """Check whether one node reads a value, and it is no result of the graph."""
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def scale_constant(model: ir.Model, name: str, axis: int, factors: Array) -> None:
    """Multiply a constant by one factor per index of an axis."""
    import onnx_ir as ir

    held = model.graph.initializers[name].const_value
    if held is None:
        raise ValueError(f"{name!r} is not a constant")
    source, sizes = held, sizes_of(held)
    spread = factors.reshape([-1 if i == axis % len(sizes) else 1 for i in range(len(sizes))])
    model.graph.initializers[name].const_value = computed(
        name, lambda: (source.numpy() * spread).astype(np.float32), shape=sizes, dtype=ir.DataType.FLOAT
    )
