"""Recognize attention over a carried cache by its structure.

Shapes: B batch, S new steps, P held steps, T = P + S keys, C capacity of a buffer, H query heads, N key/value heads,
G = H / N, E head width, F = E / 2 rotary frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aigc_export.graphs.passes.decoder.cache_pattern import Append, match_append
from aigc_export.graphs.passes.decoder.heads_pattern import Heads, match_heads, times
from aigc_export.graphs.passes.decoder.pattern import (
    equal_to,
    is_closed,
    made_by,
    permutes,
    reads_with_number,
    scalar_of,
    sizes_known,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CachedAttention", "match_attention"]


@dataclass(frozen=True, kw_only=True)
class CachedAttention:
    """Attention of the new steps over the held and the new ones.

    Attributes:
        query: heads of the queries.
        key: those of the keys.
        value: those of the values.
        keys: how the cache of keys goes on.
        values: that of values.
        bias: [B or 1, 1, S, T or C], added to the scores.
        scale: that the scores are multiplied by.
        cap: the soft cap of the scores, before the bias is added: `cap tanh(x / cap)` (Gemma 2, section 2); 0 for none.
        head_size: E.
        result: [B, S, H * E].
        nodes: all that compute it, in the order of the graph.
    """

    query: Heads
    key: Heads
    value: Heads
    keys: Append
    values: Append
    bias: ir.Value
    scale: float
    cap: float
    head_size: int
    result: ir.Value
    nodes: tuple[ir.Node, ...]


def match_attention(softmax: ir.Node) -> CachedAttention | None:
    """Recognize the attention around a Softmax.

    The form is that of `aigc_models.families.attention`: `Softmax(scale Q K^T + bias) V`, with a soft cap around the
    scores or without; the H heads of queries in N groups beside their head of keys and values (or H = N, without
    groups), K and V from `Concat(past, new)` or `ScatterElements(past, slots, new)`, heads split off by Reshape and
    Transpose, and turned, whole or in their first part, or not. Returns None for any other form: a cache of another
    kind, values that others read.
    """
    scores = _scores(softmax)
    output = None if scores is None else _output(softmax)
    if scores is None or output is None:
        return None
    keys, values = match_append(scores.keys), match_append(output.values)
    if keys is None or values is None or keys.length is not values.length:
        return None
    query, key, value = match_heads(scores.query), match_heads(keys.new), match_heads(values.new)
    if query is None or key is None or value is None or value.rotary is not None or query.rotary != key.rotary:
        return None
    sizes = sizes_known(keys.past)
    if sizes is None or sizes != sizes_known(values.past) or not isinstance(sizes[3], int):
        return None
    groups_fit = query.heads % key.heads == 0 and key.heads == value.heads == sizes[1]
    if not groups_fit or scores.grouped != output.grouped or scores.grouped != (query.heads != key.heads):
        return None
    found = {
        *scores.nodes, softmax, *output.nodes, keys.node, values.node, *query.nodes, *key.nodes, *value.nodes
    }  # fmt: skip
    results = (output.result, keys.present, values.present)
    graph = softmax.graph
    if graph is None or any(node.graph is not graph for node in found) or not is_closed(found, results):
        return None
    return CachedAttention(
        query=query,
        key=key,
        value=value,
        keys=keys,
        values=values,
        bias=scores.bias,
        scale=scores.scale,
        cap=scores.cap,
        head_size=sizes[3],
        result=output.result,
        nodes=tuple(node for node in graph if node in found),
    )


@dataclass(frozen=True, kw_only=True)
class _Scores:
    query: ir.Value
    keys: ir.Value
    bias: ir.Value
    scale: float
    cap: float
    grouped: bool
    nodes: tuple[ir.Node, ...]


def _scores(softmax: ir.Node) -> _Scores | None:
    """`Add(cap(MatMul(scale * q, Transpose(k))), bias)`, q and the bias with an axis for the groups or without."""
    added = made_by(softmax.inputs[0], "Add")
    rank = 0 if added is None or added.outputs[0].shape is None else len(added.outputs[0].shape)
    if added is None or rank not in (4, 5) or softmax.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return None
    for value, bias in (added.inputs, added.inputs[::-1]):
        cap, around, plain = _soft_cap(value)
        product = made_by(plain, "MatMul")
        found = None if product is None else _product(product, bias, rank)
        if found is not None:
            return replace(found, cap=cap, nodes=(added, *around, *found.nodes))
    return None


def _soft_cap(value: ir.Value | None) -> tuple[float, tuple[ir.Node, ...], ir.Value | None]:
    """The c of `c tanh(x / c)`, its nodes, and x; 0, none and the value itself where it is no such cap."""
    widened = made_by(value, "Mul")
    number = reads_with_number(widened)
    bent = None if number is None else made_by(number[0], "Tanh")
    divided = None if bent is None else made_by(bent.inputs[0], "Div")
    if widened is None or number is None or bent is None or divided is None or number[1] <= 0:
        return 0.0, (), value
    if scalar_of(divided.inputs[1]) != number[1]:
        return 0.0, (), value
    return number[1], (widened, bent, divided), divided.inputs[0]


def _product(product: ir.Node, read: ir.Value | None, rank: int) -> _Scores | None:
    """The product of queries and keys, and the bias that is added to it."""
    turned, query, scale = made_by(product.inputs[1], "Transpose"), product.inputs[0], 1.0
    if turned is None or not permutes(turned, *range(rank - 2), rank - 1, rank - 2):
        return None
    nodes, keys, bias = [product, turned], turned.inputs[0], read
    multiplied = made_by(query, "Mul")
    scaled = reads_with_number(multiplied)
    if multiplied is not None and scaled is not None:
        nodes.append(multiplied)
        query, scale = scaled
    if rank == 5:
        in_groups, widened, alone = made_by(query, "Reshape"), _beside(keys), _beside(read)
        if (
            in_groups is None
            or widened is None
            or alone is None
            or not _groups(in_groups.outputs[0], in_groups.inputs[0])
        ):
            return None
        nodes += [in_groups, widened]
        query, keys, bias = in_groups.inputs[0], widened.inputs[0], alone.inputs[0]
    sizes = sizes_known(bias)
    if query is None or keys is None or bias is None or read is None or sizes is None or sizes[1:2] != (1,):
        return None
    return _Scores(query=query, keys=keys, bias=bias, scale=scale, cap=0.0, grouped=rank == 5, nodes=tuple(nodes))


def _groups(grouped: ir.Value, heads: ir.Value | None) -> bool:
    """Whether the axis of the heads was taken apart, or put together again: [B, N, G, S, E] beside [B, N * G, S, E]."""
    apart, together = sizes_known(grouped), sizes_known(heads)
    if apart is None or together is None or len(apart) != 5:
        return False
    return together == (apart[0], times(apart[1], apart[2]), *apart[3:])


def _beside(value: ir.Value | None) -> ir.Node | None:
    """`Unsqueeze(x, 2)`: one head of keys beside the queries of its group."""
    node = made_by(value, "Unsqueeze")
    return node if node is not None and equal_to(node.inputs[1], [2]) else None


@dataclass(frozen=True, kw_only=True)
class _Output:
    values: ir.Value
    result: ir.Value
    grouped: bool
    nodes: tuple[ir.Node, ...]


def _output(softmax: ir.Node) -> _Output | None:
    """`Reshape(Transpose(Reshape(MatMul(p, v))))`, the first Reshape where there are groups."""
    product = _only_reader(softmax.outputs[0], "MatMul")
    if product is None or product.inputs[0] is not softmax.outputs[0] or product.inputs[1] is None:
        return None
    nodes, values, heads = [product], product.inputs[1], product.outputs[0]
    widened = _beside(values)
    if widened is not None and widened.inputs[0] is not None:
        joined = _only_reader(heads, "Reshape")
        if joined is None or not _groups(heads, joined.outputs[0]):
            return None
        nodes += [widened, joined]
        values, heads = widened.inputs[0], joined.outputs[0]
    turned = _only_reader(heads, "Transpose")
    flat = None if turned is None else _only_reader(turned.outputs[0], "Reshape")
    if turned is None or flat is None or not permutes(turned, 0, 2, 1, 3):
        return None
    before, after = sizes_known(turned.outputs[0]), sizes_known(flat.outputs[0])
    if before is None or after is None or after != (*before[:2], times(before[2], before[3])):
        return None
    return _Output(values=values, result=flat.outputs[0], grouped=widened is not None, nodes=(*nodes, turned, flat))


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    readers = list(value.uses())
    if len(readers) != 1 or value.is_graph_output() or readers[0][0].op_type != op_type:
        return None
    return readers[0][0]
