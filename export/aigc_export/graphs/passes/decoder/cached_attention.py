"""Attention over a carried cache: one operator, which writes the cache where it lies."""

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

__all__ = ["fuse_cached_attention", "reads_rows_apart"]

_HEAD_MULTIPLE, _TURNED_HEAD_MULTIPLE = 8, 16
"""What GroupQueryAttention wants a head's width to be a multiple of, without and with a rotation inside."""
_FREQUENCY_MULTIPLE = 8
"""What it wants the number of frequencies to be a multiple of."""


def fuse_cached_attention(model: ir.Model) -> ir.Model:
    """Attend by one operator; changes the model.

    Graph before: `K = Concat(past, turn(k))`, `y = Softmax(scale turn(q) K^T + bias) V`, V likewise; after:
    `y, K, V = GroupQueryAttention(q, k, v, past, ...)`.

    Every number is the same in exact arithmetic. The operator turns queries and keys by the graph's own cosines and
    sines, those of every step of every row, and adds the graph's own bias: padding, windows and whatever else hides or
    weighs keys. It computes nothing for the empty places of a buffer, and writes into the one that it was given.

    1. Float32 attention of the form of `match_attention`, H = N or in groups; heads of a multiple of 8, where they are
       turned of 16. What turns is a whole head or its first part, a multiple of 16 as well.
    2. A growing cache (`Concat`), and a buffer (`ScatterElements`), whose bias hides every key behind its query: the
       operator hides them in any case.
    3. Queries, keys and values that are the parts of one product, in this order: taken whole.
    4. Heads that are normed before they are turned: taken behind the norm.
    5. Scores that are softly capped before the bias is added: capped inside.
    6. Any other attention: left as it is.

    Of several rows the operator takes one step each: it turns the steps of a prompt by the first row's angles, and
    refuses several behind a past (onnxruntime 1.32). A session runs a row at a time then (`reads_rows_apart`).
    A graph of which an output has no row for each row of the run is not touched. Opset 18 and later; the main graph.
    """
    made: dict[tuple[object, ...], ir.Value] = {}
    for node in list(model.graph):
        found = match_attention(node) if node.op_type == "Softmax" and node.graph is model.graph else None
        if found is not None and _fits(found) and _has_rows(model.graph.outputs, found):
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
    first, rotary = sizes[0], found.query.rotary
    if any(value.dtype != ir.DataType.FLOAT for value in values):
        return False
    if first is None or any(one is None or one[:2] != first[:2] for one in sizes):
        return False
    if not hides_later_keys(found.bias, found.keys.held):
        return False
    if rotary is None:
        return found.head_size % _HEAD_MULTIPLE == 0
    factors = sizes_known(rotary.cos)
    if factors is None or factors != sizes_known(rotary.sin) or factors[:2] != first[:2]:
        return False
    frequencies = factors[2]
    return (
        found.head_size % _TURNED_HEAD_MULTIPLE == 0
        and isinstance(frequencies, int)
        and frequencies % _FREQUENCY_MULTIPLE == 0
    )


def _has_rows(outputs: Sequence[ir.Value], found: CachedAttention) -> bool:
    """Whether every output of a graph has the rows of an attention along its first axis."""
    rows = sizes_known(found.keys.past)
    sizes = [sizes_known(output) for output in outputs]
    return rows is not None and all(one is not None and one[:1] == rows[:1] for one in sizes)


def reads_rows_apart(model: ir.Model) -> bool:
    """Whether a graph takes several steps of one row alone."""
    return any(node.op_type == "GroupQueryAttention" and node.domain == MICROSOFT for node in model.graph)


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
    last = found.nodes[-1]
    nodes: list[ir.Node] = []
    sources: list[ir.Value | None]
    if whole is not None:
        sources = [whole.value, None, None]
    else:
        heads = (found.query, found.key, found.value)
        sources = [_flat(graph, one, found.head_size, nodes, f"{last.name}_{i}") for i, one in enumerate(heads)]
    rotary = found.query.rotary
    turns: list[ir.Value | None] = [None, None, None]
    if rotary is not None:
        turns = [steps.table(rotary.cos), steps.table(rotary.sin), steps.table_places()]
    held = [found.keys.past, found.values.past, steps.last_places(), steps.total_32()]
    fused = ir.node(
        "GroupQueryAttention",
        [*sources, *held, *turns, steps.seen(found.bias)],
        {
            "num_heads": found.query.heads,
            "kv_num_heads": found.key.heads,
            "scale": found.scale,
            "do_rotary": int(rotary is not None),
            "softcap": found.cap,
        },
        num_outputs=3,
        domain=MICROSOFT,
        name=f"{last.name}_cached",
    )
    fused.metadata_props.update(last.metadata_props)
    graph.insert_before(last, [*steps.take_nodes(), *nodes, fused])
    for old, new in zip((found.result, found.keys.present, found.values.present), fused.outputs, strict=True):
        new.shape, new.type, name = old.shape, old.type, old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}_plain", name
    graph.remove([*([] if whole is None else [whole.split]), *found.nodes], safe=True)


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
