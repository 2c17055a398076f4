"""Attention over a carried cache: one operator for a single step, which writes the cache where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.bodies import make_names_unique
from aigc_calibration.edit import add_constant
from aigc_export.graphs.passes.decoder.attention_pattern import CachedAttention, match_attention
from aigc_export.graphs.passes.decoder.cache_pattern import hides_later_keys
from aigc_export.graphs.passes.decoder.heads_pattern import Heads
from aigc_export.graphs.passes.decoder.pattern import MICROSOFT, made_by, sizes_known
from aigc_export.graphs.passes.decoder.step_values import StepValues

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["fuse_cached_attention"]

_HEAD_MULTIPLE, _TURNED_HEAD_MULTIPLE = 8, 16
"""What GroupQueryAttention wants a head's width to be a multiple of, without and with a rotation inside."""


def fuse_cached_attention(model: ir.Model) -> ir.Model:
    """Attend by one operator where a run adds a single step to a cache that holds some; changes the model.

    Graph before: `K = Concat(past, turn(k))`, `y = Softmax(scale turn(q) K^T + bias) V`, V likewise; after:
    `y, K, V = If(one step, and some are held; GroupQueryAttention(q, k, v, past, ...); the nodes as they were)`.

    Every number is the same in exact arithmetic. The operator turns queries and keys by the graph's own cosines and
    sines, those of every row's own position, and adds the graph's own bias: padding, windows and whatever else hides or
    weighs keys. It computes nothing for the empty places of a buffer, and writes into the one that it was given.

    1. Float32 attention of the form of `match_attention`, H = N or in groups; heads of a multiple of 8, where they are
       turned of 16.
    2. A growing cache (`Concat`), and a buffer (`ScatterElements`) whose bias hides every key behind its query. Of a
       buffer the nodes as they were read the steps that it holds, and no more.
    3. Queries, keys and values that are the parts of one product, in this order: taken whole.
    4. Heads that are normed before they are turned: taken behind the norm.
    5. Any other attention: left as it is.

    Several steps at once keep their nodes: the operator refuses them for more than one row behind a past, and is
    slower at a prompt than the plain products are (onnxruntime 1.32). Opset 18 and later; the main graph.
    """
    made: dict[tuple[object, ...], ir.Value] = {}
    for node in list(model.graph):
        found = match_attention(node) if node.op_type == "Softmax" and node.graph is model.graph else None
        if found is not None and _fits(found):
            _replace(model.graph, found, made)
    if made:
        model.graph.opset_imports[MICROSOFT] = 1
        make_names_unique(model)
    return model


def _fits(found: CachedAttention) -> bool:
    """Whether the operator takes it."""
    import onnx_ir as ir

    heads = (found.query, found.key, found.value)
    values = (*(one.source for one in heads), found.keys.past, found.values.past, found.bias)
    sizes = [sizes_known(one.source) for one in heads]
    first, length, rotary = sizes[0], found.keys.length, found.query.rotary
    if any(value.dtype != ir.DataType.FLOAT for value in values):
        return False
    if first is None or any(one is None or one[:2] != first[:2] for one in sizes):
        return False
    if length is not None and not hides_later_keys(found.bias, length):
        return False
    if rotary is None:
        return found.head_size % _HEAD_MULTIPLE == 0
    turned = (*first[:2], found.head_size // 2)
    return found.head_size % _TURNED_HEAD_MULTIPLE == 0 and sizes_known(rotary.cos) == sizes_known(rotary.sin) == turned


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """Queries, keys and values that are the parts of one value.

    Attributes:
        value: [B, S, (H + 2N) E].
        split: that takes it apart.
    """

    value: ir.Value
    split: ir.Node


def _whole(found: CachedAttention) -> _Whole | None:
    """Case 3: the value whose parts the attention alone reads, in the order of the operator."""
    parts = [found.query, found.key, found.value]
    split = made_by(found.query.source, "Split")
    if split is None or split.inputs[0] is None or any(one.split for one in parts):
        return None
    if len(split.outputs) != 3 or any(one is not part.source for one, part in zip(split.outputs, parts, strict=True)):
        return None
    if split.attributes.get_int("axis", 0) not in (-1, 2):
        return None
    readers = {id(node) for value in split.outputs for node, _ in value.uses()}
    is_alone = readers <= {id(node) for node in found.nodes} and not any(v.is_graph_output() for v in split.outputs)
    return _Whole(value=split.inputs[0], split=split) if is_alone else None


def _replace(graph: ir.Graph, found: CachedAttention, made: dict[tuple[object, ...], ir.Value]) -> None:
    import onnx_ir as ir

    whole = _whole(found)
    steps = StepValues(graph, found.query.source if whole is None else whole.value, found.keys, made)
    moved = [*([] if whole is None else [whole.split]), *found.nodes]
    last = found.nodes[-1]
    results = (found.result, found.keys.present, found.values.present)
    single, bias = steps.is_single_step(), steps.seen(found.bias)
    beside = bias if found.bias_read is found.bias else steps.beside(bias)
    branch = _one_operator(graph, found, whole, steps, bias)
    chosen = ir.node("If", [single], num_outputs=3, name=f"{last.name}_cached")
    chosen.metadata_props.update(last.metadata_props)
    graph.insert_before(last, [*steps.take_nodes(), chosen])
    inside = {id(node) for node in moved}
    for old, new in zip(results, chosen.outputs, strict=True):
        new.shape, new.type, name = old.shape, old.type, old.name
        for node, index in list(old.uses()):
            if id(node) not in inside:
                node.replace_input_with(index, new)
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new
        old.name, new.name = f"{name}_plain", name
    graph.remove(moved)
    if found.keys.length is not None:
        _read_as(moved, found.bias_read, beside)
        moved = _held_alone(graph, moved, found, steps.total())
    plain = ir.Graph([], list(results), nodes=moved, name=f"{chosen.name}_plain")
    chosen.attributes["then_branch"] = ir.AttrGraph("then_branch", branch)
    chosen.attributes["else_branch"] = ir.AttrGraph("else_branch", plain)


def _read_as(nodes: Sequence[ir.Node], value: ir.Value, other: ir.Value) -> None:
    for node in nodes:
        for index, given in enumerate(node.inputs):
            if given is value:
                node.replace_input_with(index, other)


def _one_operator(
    graph: ir.Graph, found: CachedAttention, whole: _Whole | None, steps: StepValues, bias: ir.Value
) -> ir.Graph:
    """The branch of a single step."""
    import onnx_ir as ir

    nodes: list[ir.Node] = []
    name = f"{found.nodes[-1].name}_step"
    heads = (found.query, found.key, found.value)
    if whole is not None:
        sources: list[ir.Value | None] = [whole.value, None, None]
    else:
        sources = [_flat(graph, one, found.head_size, nodes, f"{name}_{i}") for i, one in enumerate(heads)]
    rotary = found.query.rotary
    turns: list[ir.Value | None] = [None, None, None]
    if rotary is not None:
        turns = [steps.table(rotary.cos), steps.table(rotary.sin), steps.table_places()]
    fused = ir.node(
        "GroupQueryAttention",
        [*sources, found.keys.past, found.values.past, steps.last_places(), steps.total_32(), *turns, bias],
        {
            "num_heads": found.query.heads,
            "kv_num_heads": found.key.heads,
            "scale": found.scale,
            "do_rotary": int(rotary is not None),
        },
        num_outputs=3,
        domain=MICROSOFT,
        name=name,
    )
    fused.metadata_props.update(found.nodes[-1].metadata_props)
    for old, new in zip((found.result, found.keys.present, found.values.present), fused.outputs, strict=True):
        new.name, new.shape, new.type = f"{old.name}_step", old.shape, old.type
    return ir.Graph([], list(fused.outputs), nodes=[*nodes, fused], name=name)


def _flat(graph: ir.Graph, heads: Heads, head_size: int, nodes: list[ir.Node], name: str) -> ir.Value:
    """The heads beside each other, [B, S, heads * E]."""
    import onnx_ir as ir

    if not heads.split:
        return heads.source
    sizes = add_constant(graph, f"cache_flat_{heads.heads}_{head_size}", np.array([0, 0, heads.heads * head_size]))
    node = ir.node("Reshape", [heads.source, sizes], name=f"{name}_flat")
    node.outputs[0].name, node.outputs[0].type = f"{name}_flat_value", heads.source.type
    nodes.append(node)
    return node.outputs[0]


def _held_alone(graph: ir.Graph, nodes: Sequence[ir.Node], found: CachedAttention, total: ir.Value) -> list[ir.Node]:
    """`f(present)` -> `f(Slice(present, 0, total))`: what lies behind the steps of a buffer is hidden anyway."""
    import onnx_ir as ir

    start, axis = (add_constant(graph, f"cache_{name}", np.array([number])) for name, number in _SLICE.items())
    slices: dict[int, ir.Node] = {}
    for append in (found.keys, found.values):
        held = ir.node("Slice", [append.present, start, total, axis], name=f"{append.node.name}_held")
        held.outputs[0].name, held.outputs[0].type = f"{held.name}_value", append.present.type
        for node, index in list(append.present.uses()):
            if node is not held:
                node.replace_input_with(index, held.outputs[0])
        slices[id(append.node)] = held
    return [one for node in nodes for one in (node, slices.get(id(node))) if one is not None]


_SLICE = {"no_step": 0, "third_axis": 2}
