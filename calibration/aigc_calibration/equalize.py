"""Equalize the channels of a layer's result, so that one step of 8 bits fits them all.

A tensor has one step, and its largest channel sets it: where most channels are a tenth of that one, three of their
eight bits are lost. Between a layer and the products that read it, any positive s per channel can be moved, as long as
nothing in between is changed by it: f(s x) = s f(x) for Relu, LeakyRelu, PRelu and what else is in `HOMOGENEOUS`. The
layer's channels and bias take s, the weights that read them 1 / s: the same function (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1). There s makes the ranges of weights alike;
weights have a scale per channel here, and s makes those of results alike: s_c = (largest magnitude / that of channel
c)^strength, and no more than leaves the range of everything that the channel becomes a part of as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.limits import array_problem
from aigc_calibration.prepare import copy_graph
from aigc_calibration.sites import Site, activation_channel_axis, find_sites, output_channel_axis, weight_array
from aigc_calibration.smooth import one_group, read_once, scale_constant
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ChannelGroup", "channel_groups", "equalize", "equalizing_scales"]

HOMOGENEOUS = frozenset(
    ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu", "Relu")
)
"""Operators of one value that a positive factor of a channel passes through."""
MOST = 256.0
"""No channel is made larger by more."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A product that reads the channels of a group.

    Attributes:
        site: the product.
        first: the first of the channels among those that it reads.
    """

    site: Site
    first: int


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """A result whose channels may be scaled, and what is divided in return.

    Attributes:
        value: its name.
        channel_axis: where its channels lie: 1 for convolutions, -1 for products of matrices.
        folds: (constant, axis) that take the factors.
        readers: all that reads them; they are divided by the factors.
    """

    value: str
    channel_axis: int
    folds: tuple[tuple[str, int], ...]
    readers: tuple[Reader, ...]

    @property
    def watched(self) -> tuple[str, ...]:
        """The values whose channels decide about the factors: the result, and what the readers read."""
        return tuple(dict.fromkeys((self.value, *(r.site.activations[0] for r in self.readers))))


def channel_groups(model: ir.Model, leave: Collection[str] = ()) -> tuple[ChannelGroup, ...]:
    """Find every group of a prepared graph, in its order.

    Args:
        model: the graph.
        leave: values that products read, whose channels are scaled by other means.
    """
    sites = {s.node: s for s in find_sites(model) if s.weight is not None and one_group(model, s)}
    nodes = list(model.graph)
    found = (_group(node, nodes[at + 1 :], sites) for at, node in enumerate(nodes) if str(node.name) in sites)
    return tuple(group for group in found if group is not None and not set(group.watched) & set(leave))


def _group(layer: ir.Node, later: list[ir.Node], sites: Mapping[str, Site]) -> ChannelGroup | None:
    axis = activation_channel_axis(layer.op_type)
    folds = _folds(layer)
    if folds is None:
        return None
    places = {layer.outputs[0]: 0}
    left = {layer.outputs[0]: _uses(layer.outputs[0])}
    readers = []
    for node in later:
        if not any(left.values()):
            break
        read = [v for v in node.inputs if v in places]
        if not read:
            continue
        if (reader := _reader(node, read, places, sites, axis)) is not None:
            readers.append(reader)
        elif node.op_type != "Shape":  # which reads no numbers
            passed = _passed(node, read, places, axis)
            if passed is None:
                return None
            places[node.outputs[0]], own = passed
            left[node.outputs[0]] = _uses(node.outputs[0])
            folds += own
        for value in read:
            left[value] -= 1
    if not readers or any(left.values()):
        return None
    return ChannelGroup(value=str(layer.outputs[0].name), channel_axis=axis, folds=tuple(folds), readers=tuple(readers))


def _uses(value: ir.Value) -> int:
    """How often a value is read: a result of the graph once more, by nobody that could be divided."""
    return len(list(value.uses())) + value.is_graph_output()


def _reader(
    node: ir.Node, read: list[ir.Value], places: Mapping[ir.Value, int], sites: Mapping[str, Site], axis: int
) -> Reader | None:
    site = sites.get(str(node.name))
    if site is None or read != [node.inputs[0]] or axis != activation_channel_axis(site.op_type):
        return None
    return Reader(site=site, first=places[read[0]])


def _folds(layer: ir.Node) -> list[tuple[str, int]] | None:
    """The constants of a layer that take the factors; None where one of them is read elsewhere too."""
    axis = 1 if layer.op_type == "MatMul" else output_channel_axis(layer)
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    present = [(v, a) for v, a in ((layer.inputs[1], axis), (bias, 0)) if v is not None]
    if all(_is_its_own(v) for v, _ in present):
        return [(str(v.name), a) for v, a in present]
    return None


def _is_its_own(value: ir.Value) -> bool:
    return value.const_value is not None and read_once(value)


def _passed(
    node: ir.Node, read: list[ir.Value], places: Mapping[ir.Value, int], axis: int
) -> tuple[int, list[tuple[str, int]]] | None:
    """The first of the channels in the result of a node that factors pass through, and constants that take them too.

    None where they do not pass.
    """
    if node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1:
        return None
    first = _first(node, read, places, axis)
    if first is not None:
        return first, []
    bias = _bias(node, read) if axis == -1 and _of_the_layer_alone(read[0], places) else None
    return None if bias is None else (places[read[0]], [(str(bias.name), 0)])


def _first(node: ir.Node, read: list[ir.Value], places: Mapping[ir.Value, int], axis: int) -> int | None:
    others = [v for v in node.inputs if v is not None and v not in places]
    alone, first = read == [node.inputs[0]], places[read[0]]
    if node.op_type in HOMOGENEOUS or (node.op_type == "Resize" and _keeps_channels(node)):
        return first if alone else None
    if node.op_type == "Mul" or (node.op_type == "Div" and alone):
        constant = len(read) == 1 and all(v.const_value is not None for v in others)
        return first if constant and _same_size(node, read[0], axis) else None
    if node.op_type in {"Add", "Sub", "Max", "Min"} and not others:
        return first if {places[v] for v in read} == {first} else None
    if node.op_type == "Concat" and len(read) == 1:
        return _behind(node, read[0], first, axis)
    return None


def _keeps_channels(node: ir.Node) -> bool:
    """Whether a Resize interpolates within each channel."""
    x, y = node.inputs[0], node.outputs[0]
    sizes = [None if v is None or v.shape is None or len(v.shape) < 2 else v.shape[1] for v in (x, y)]
    return isinstance(sizes[0], int) and sizes[0] == sizes[1]


def _same_size(node: ir.Node, value: ir.Value, axis: int) -> bool:
    """Whether a product has as many channels as its operand, which could have one alone."""
    sizes = [None if v.shape is None else v.shape[axis] for v in (value, node.outputs[0])]
    return isinstance(sizes[0], int) and sizes[0] == sizes[1]


def _behind(node: ir.Node, value: ir.Value, first: int, axis: int) -> int | None:
    """Where channels lie in a concatenation of channels."""
    rank = len(node.outputs[0].shape or ())
    if not rank or node.attributes["axis"].as_int() % rank != axis % rank:
        return None
    before = 0
    for entry in node.inputs:
        if entry is value:
            return before + first
        size = None if entry is None or entry.shape is None else entry.shape[axis]
        if not isinstance(size, int):
            return None
        before += size
    return None


def _of_the_layer_alone(value: ir.Value, places: Mapping[ir.Value, int]) -> bool:
    """Whether a value has the channels of the layer's result and no others beside them."""
    result = next(iter(places))
    return value.shape is not None and result.shape is not None and value.shape[-1] == result.shape[-1]


def _bias(node: ir.Node, read: list[ir.Value]) -> ir.Value | None:
    """The constant per channel that an Add adds and nothing else reads."""
    if node.op_type != "Add" or len(read) != 1:
        return None
    other = next((v for v in node.inputs if v is not None and v is not read[0]), None)
    if other is None or not _is_its_own(other) or other.const_value is None or len(other.const_value.shape) != 1:
        return None
    size = None if read[0].shape is None else read[0].shape[-1]
    return other if isinstance(size, int) and other.const_value.shape[0] == size else None


def equalize(
    model: ir.Model, channel_amax: Mapping[str, Array], strength: float, *, leave: Collection[str] = ()
) -> tuple[ir.Model, int]:
    """Fold the factors of every group into a copy of the graph.

    Args:
        model: the prepared float graph.
        channel_amax: value -> [C], the largest magnitude of every channel, of all that the groups watch.
        strength: 0 leaves the channels as they are, 1 makes them as equal as can be.
        leave: see `channel_groups`.

    Returns:
        The graph, and of how many results the channels were scaled.
    """
    sound = (group for group in channel_groups(model, leave) if _is_sound(model, group))
    groups = list(_factors(sound, channel_amax, strength))
    made = copy_graph(model) if groups else model
    for group, s in groups:
        for name, axis in group.folds:
            scale_constant(made, name, axis, s)
        for reader in group.readers:
            size = reader.site.shape[reader.site.input_axis]
            spread = np.ones(size, np.float32)
            spread[reader.first : reader.first + len(s)] = 1 / s
            scale_constant(made, str(reader.site.weight), reader.site.input_axis, spread)
    return made, len(groups)


def _is_sound(model: ir.Model, group: ChannelGroup) -> bool:
    """Whether all its constants remain numbers: multiples of mask constants, or of next to nothing, need not be."""
    names = [*(name for name, _ in group.folds), *(str(r.site.weight) for r in group.readers)]
    return not any(array_problem(name, weight_array(model, name)) for name in names)


def _factors(
    groups: Iterable[ChannelGroup], channel_amax: Mapping[str, Array], strength: float
) -> Iterator[tuple[ChannelGroup, Array]]:
    for group in groups:
        result = channel_amax[group.value]
        parts = []
        for reader in group.readers:
            whole = channel_amax[reader.site.activations[0]]
            parts.append((whole[reader.first : reader.first + len(result)], float(whole.max(initial=0.0))))
        s = equalizing_scales(result, parts, strength)
        if (s > 1).any():
            yield group, s


def equalizing_scales(result: Array, parts: list[tuple[Array, float]], strength: float) -> Array:
    """How much larger each channel of a result is made.

    Args:
        result: [C], the largest magnitude of every channel.
        parts: for everything that it becomes a part of: [C], the magnitudes of these channels there, and the largest of
            all channels there.
        strength: 0 to 1.

    Returns:
        [C] float32, at least 1; 1 for channels that were never used, and throughout where a magnitude is not finite.
    """
    whole = [(result, float(result.max(initial=0.0))), *parts]
    room = np.full(len(result), MOST)
    for channels, largest in whole:
        if not np.isfinite(channels).all() or not np.isfinite(largest):
            return np.ones(len(result), np.float32)
        room = np.minimum(room, largest / np.maximum(channels.astype(np.float64), largest / MOST + 1e-30))
    room = np.where(result > 0, np.maximum(room, 1.0), 1.0)
    scales: Array = (room**strength).astype(np.float32)
    return scales
