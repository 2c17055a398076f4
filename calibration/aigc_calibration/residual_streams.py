"""Find residual streams: values that layers add to, and that norms and products alone read.

A stream is seen as rows x of D channels. Any orthogonal R whose rows and columns sum to 1 (R 1 = 1, with 1 = D ones)
can be multiplied to all of its rows without a change of what the graph computes, since

- a layer that writes x W + b writes x (W R) + b R; rows of a table are the same;
- sums of rows, rows taken out, and rows times a number each, are rotated as the rows are;
- the mean of a row and its mean square are the same: (x R) 1 = x 1, |x R| = |x|. So norms rotate with their input:
  RMS(x R) = RMS(x) R, and (x R - mean 1) = (x - mean 1) R;
- a product that reads rows with a gain g per channel takes R^T diag(g) W in place of W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aigc_calibration.computed import sizes_of
from aigc_calibration.sites import Site, find_sites
from aigc_calibration.smooth import one_group, read_once

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ReadNorm", "ResidualStream", "residual_streams"]

_AS_THEY_ARE = frozenset({"Identity", "Neg"})
_ROWS_MOVED = frozenset({"Expand", "Flatten", "Reshape", "Squeeze", "Unsqueeze"})
"""Where the last axis keeps its size, rows stay whole."""
_SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})
_MEANS = frozenset({"ReduceMean", "ReduceSum"})


@dataclass(frozen=True, kw_only=True)
class ReadNorm:
    """The end of a norm, whose gain its readers take.

    Attributes:
        node: its name: a Mul with a constant, or a LayerNormalization.
        gain: name of the constant [D].
        bias: name of the constant [D] that is added; None for none.
        readers: the products that read its result; nothing else does.
    """

    node: str
    gain: str
    bias: str | None
    readers: tuple[Site, ...]


@dataclass(frozen=True, kw_only=True)
class ResidualStream:
    """Values that can be rotated together.

    Attributes:
        width: channels D.
        values: their names.
        writers: (constant, axis) of weights, tables and biases that make them, with the axis of the D channels.
        readers: products that read them as they are.
        norms: that read them.
    """

    width: int
    values: tuple[str, ...]
    writers: tuple[tuple[str, int], ...]
    readers: tuple[Site, ...]
    norms: tuple[ReadNorm, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """All products that read it, through a norm or not."""
        return (*self.readers, *(site for norm in self.norms for site in norm.readers))


def residual_streams(model: ir.Model) -> tuple[ResidualStream, ...]:
    """Find every stream of a prepared graph that norms read, in its order."""
    sites = {s.node: s for s in find_sites(model) if s.weight is not None and one_group(model, s)}
    seen = set[str]()
    found = []
    for value in _normalized(model):
        if value.name in seen:
            continue
        search = _Search(model=model, sites=sites, width=_width(value))
        complete = search.grow(value)
        seen |= {str(v.name) for v in search.values}
        if complete and search.writers and (search.norms or search.readers):
            found.append(search.stream())
    return tuple(found)


def _normalized(model: ir.Model) -> Iterator[ir.Value]:
    """What norms read: values with a LayerNormalization, or whose squares are summed."""
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if source is not None and _width(source) > 1 and (_is_layer_norm(node) or _sums_squares(node)):
            yield source


@dataclass(kw_only=True)
class _Search:
    """A stream while it is looked for."""

    model: ir.Model
    sites: dict[str, Site]
    width: int
    values: dict[ir.Value, None] = field(default_factory=dict)
    writers: dict[tuple[str, int], None] = field(default_factory=dict)
    readers: dict[str, Site] = field(default_factory=dict)
    norms: dict[str, ReadNorm] = field(default_factory=dict)

    def grow(self, start: ir.Value) -> bool:
        """Take in all that must be rotated with a value; False where something cannot be."""
        left = [start]
        while left:
            value = left.pop()
            if value in self.values:
                continue
            self.values[value] = None
            producer = value.producer()
            if producer is None or value.is_graph_output() or _width(value) != self.width:
                return False
            if not self._writes(producer):
                made = self._through(producer)
                if made is None:
                    return False
                left += made
            for node, _ in value.uses():
                others = [] if self._ends(node, value) else self._through(node)
                if others is None:
                    return False
                left += others
        return True

    def stream(self) -> ResidualStream:
        """What was found."""
        return ResidualStream(
            width=self.width,
            values=tuple(str(v.name) for v in self.values),
            writers=tuple(self.writers),
            readers=tuple(self.readers.values()),
            norms=tuple(self.norms.values()),
        )

    def _own(self, node: ir.Node) -> bool:
        return node.graph is self.model.graph and node.domain in {"", "ai.onnx"}

    def _writes(self, node: ir.Node) -> bool:
        """Whether a node is a layer or a table that makes rows; its constants are noted if it is."""
        weight = node.inputs[0 if node.op_type == "Gather" else 1] if len(node.inputs) > 1 else None
        if not self._own(node) or weight is None or weight.const_value is None or not read_once(weight):
            return False
        if node.op_type == "Gather":
            axis = node.attributes.get_int("axis", 0)
            return axis == 0 and len(sizes_of(weight.const_value)) == 2 and self._takes(weight)
        site = self.sites.get(str(node.name))
        if site is None or site.op_type not in {"MatMul", "Gemm"}:
            return False
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not self._takes(bias):
            return False
        self.writers[str(weight.name), site.channel_axis] = None
        return True

    def _takes(self, constant: ir.Value) -> bool:
        """Whether a constant is rows of D numbers of one node, which are rotated; noted if it is."""
        sizes = () if constant.const_value is None else sizes_of(constant.const_value)
        if not sizes or sizes[-1] != self.width or not read_once(constant):
            return False
        self.writers[str(constant.name), len(sizes) - 1] = None
        return True

    def _through(self, node: ir.Node) -> list[ir.Value] | None:
        """The values of a node that are rotated where one of them is; None where it is not so simple."""
        if not self._own(node) or len(node.outputs) != 1:
            return None
        inputs = [v for v in node.inputs if v is not None]
        if node.op_type in _AS_THEY_ARE or (node.op_type in _ROWS_MOVED and _width(inputs[0]) == self.width):
            return [inputs[0], node.outputs[0]]
        if node.op_type in {"Gather", "Transpose"}:
            return [inputs[0], node.outputs[0]] if _keeps_rows(node) else None
        if node.op_type in {"Mul", "Div"}:
            rows = [v for v in inputs if not _one_a_row(v)]
            whole = len(rows) == 1 and rows[0].const_value is None and (node.op_type == "Mul" or rows[0] is inputs[0])
            return [*rows, node.outputs[0]] if whole else None
        if node.op_type in {"Add", "Sub"}:
            rows = [v for v in inputs if not _one_a_row(v)]
            if not all(self._takes(v) for v in rows if v.const_value is not None):
                return None
            return [*(v for v in rows if v.const_value is None), node.outputs[0]]
        return None

    def _ends(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether a node reads rows, and what it makes is as it was."""
        if not self._own(node):
            return False
        site = self.sites.get(str(node.name))
        if site is not None and node.inputs[0] is value:
            self.readers[site.node] = site
            return True
        if node.op_type == "Shape" or _sums_squares(node) or _is_mean(node):
            return True
        norm = self._norm(node)
        if norm is not None:
            self.norms[norm.node] = norm
        return norm is not None

    def _norm(self, node: ir.Node) -> ReadNorm | None:
        if node.op_type == "Mul":
            gain = next((v for v in node.inputs if v is not None and v.const_value is not None), None)
            bias = None
        elif _is_layer_norm(node):
            gain, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        else:
            return None
        for constant in (gain, bias):
            if constant is not None and (constant.const_value is None or not read_once(constant)):
                return None
        result = node.outputs[0]
        if gain is None or gain.const_value is None or sizes_of(gain.const_value) != (self.width,):
            return None
        uses = [(self.sites.get(str(reader.name)), index) for reader, index in result.uses()]
        readers = [site for site, index in uses if site is not None and index == 0]
        if not readers or len(readers) < len(uses) or result.is_graph_output():
            return None
        return ReadNorm(
            node=str(node.name),
            gain=str(gain.name),
            bias=None if bias is None else str(bias.name),
            readers=tuple(readers),
        )


def _width(value: ir.Value) -> int:
    """The size of the last axis; 0 where the graph does not say."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else 0
    return size if isinstance(size, int) else 0


def _one_a_row(value: ir.Value) -> bool:
    """Whether a value has one number for a row, or for all of them."""
    if value.const_value is not None:
        return sizes_of(value.const_value)[-1:] in {(), (1,)}
    return value.shape is not None and (len(value.shape) == 0 or value.shape[-1] == 1)


def _keeps_rows(node: ir.Node) -> bool:
    source = node.inputs[0]
    rank = 0 if source is None or source.shape is None else len(source.shape)
    if node.op_type == "Gather":
        return rank > 1 and node.attributes.get_int("axis", 0) % rank != rank - 1
    return "perm" in node.attributes and node.attributes["perm"].as_ints()[-1] == rank - 1


def _is_layer_norm(node: ir.Node) -> bool:
    if node.op_type != "LayerNormalization" or node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1:
        return False
    source = node.inputs[0]
    rank = 0 if source is None or source.shape is None else len(source.shape)
    return rank > 0 and node.attributes.get_int("axis", -1) % rank == rank - 1


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    power = node.inputs[1] if node.op_type == "Pow" else None
    return power is not None and power.const_value is not None and (power.const_value.numpy() == 2).all()


def _is_mean(node: ir.Node) -> bool:
    return node.op_type in _MEANS and _reduces_rows(node)


def _sums_squares(node: ir.Node) -> bool:
    """Whether a node sums the squares of each row, or is the square in front of such sums."""
    if node.op_type in _SQUARES:
        return _reduces_rows(node)
    if node.op_type not in {"Pow", "Mul"} or not _is_square(node):
        return False
    readers = [reader for reader, _ in node.outputs[0].uses()]
    return bool(readers) and all(map(_is_mean, readers)) and not node.outputs[0].is_graph_output()


def _reduces_rows(node: ir.Node) -> bool:
    """Whether a node reduces the last axis alone, which the older operator set writes as an attribute."""
    source = node.inputs[0]
    rank = 0 if source is None or source.shape is None else len(source.shape)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    else:
        axes = [] if given is None or given.const_value is None else given.const_value.numpy().reshape(-1).tolist()
    return rank > 0 and [axis % rank for axis in axes] == [rank - 1]
