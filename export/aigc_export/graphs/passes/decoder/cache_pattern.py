"""Recognize how a carried cache goes on: which steps it takes, and which of its keys a query sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_export.graphs.passes.decoder.pattern import constant_of, equal_to, made_by, sizes_known

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Append", "hides_later_keys", "match_append"]


@dataclass(frozen=True, kw_only=True)
class Append:
    """New steps behind the held ones.

    Attributes:
        node: that appends.
        past: [B, N, P, E], or the buffer [B, N, C, E]: an input of the graph.
        new: [B, N, S, E].
        present: the same with the new steps: an output of the graph.
        length: of a buffer, the int64 [1] input that says how many steps it holds; None where it grows.
    """

    node: ir.Node
    past: ir.Value
    new: ir.Value
    present: ir.Value
    length: ir.Value | None

    @property
    def held(self) -> ir.Value | str:
        """What says how many steps are held: the input, or of a cache that grows the name of its dimension."""
        if self.length is not None:
            return self.length
        assert self.past.shape is not None
        return str(self.past.shape[2])


def match_append(present: ir.Value) -> Append | None:
    """Recognize `Concat(past, new)` or `ScatterElements(past, slots, new)` along the steps, past and present carried.

    The slots are `length`, `length + 1`, ...: where the contract of a buffer has the new steps. Returns None for any
    other, and where something else reads the past.
    """
    node = present.producer()
    past = None if node is None else node.inputs[0]
    if node is None or past is None or not present.is_graph_output() or not past.is_graph_input():
        return None
    if node.attributes.get_int("axis", 0) not in (2, -2) or not _alone(node, past):
        return None
    if made_by(present, "Concat") is node and len(node.inputs) == 2 and node.inputs[1] is not None:
        return Append(node=node, past=past, new=node.inputs[1], present=present, length=None)
    if made_by(present, "ScatterElements") is not node or node.attributes.get_string("reduction", "none") != "none":
        return None
    expanded, new = made_by(node.inputs[1], "Expand"), node.inputs[2]
    length = None if expanded is None else _counted_from(expanded.inputs[0])
    if length is None or isinstance(length, str) or new is None:
        return None
    return Append(node=node, past=past, new=new, present=present, length=length)


def _alone(node: ir.Node, past: ir.Value) -> bool:
    """Whether others read the sizes of a past alone."""
    return all(reader is node or reader.op_type == "Shape" for reader, _ in past.uses())


def _counted_from(value: ir.Value | None) -> ir.Value | str | None:
    """What `Reshape(Range(0, S, 1) + held)` counts from, along the third of four axes: see `Append.held`."""
    shaped = made_by(value, "Reshape")
    added = None if shaped is None else made_by(shaped.inputs[0], "Add")
    if added is None or shaped is None or not equal_to(shaped.inputs[1], [1, 1, -1, 1]):
        return None
    for steps, held in (added.inputs, added.inputs[::-1]):
        if held is not None and _counts(made_by(steps, "Range")):
            return held if held.is_graph_input() and sizes_known(held) == (1,) else _dimension(held)
    return None


def _dimension(value: ir.Value) -> str | None:
    """The name of the dimension whose size is `Squeeze(Shape(x))`."""
    squeezed = made_by(value, "Squeeze")
    shape = None if squeezed is None else made_by(squeezed.inputs[0], "Shape")
    sizes = None if shape is None else sizes_known(shape.inputs[0])
    if shape is None or sizes is None:
        return None
    start, end = shape.attributes.get_int("start", 0), shape.attributes.get_int("end", len(sizes))
    found = sizes[start:end]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None


def _counts(node: ir.Node | None) -> bool:
    """Whether a Range is 0, 1, 2, ..."""
    return node is not None and equal_to(node.inputs[0], [0]) and equal_to(node.inputs[2], [1])


def hides_later_keys(bias: ir.Value, held: ir.Value | str) -> bool:
    """Whether a bias hides every key that comes after its query: `Where(j <= i and ..., 0, -inf)`.

    Args:
        bias: added to the scores.
        held: what the queries i are counted from, see `Append.held`; keys j are counted from 0.
    """
    node = made_by(bias, "Where")
    hidden = None if node is None else constant_of(node.inputs[2])
    if node is None or hidden is None or not np.isneginf(hidden).all():
        return False
    return _not_after(node.inputs[0], held)


def _not_after(condition: ir.Value | None, held: ir.Value | str) -> bool:
    """Whether a condition holds for j <= i alone."""
    for op_type, combine in (("And", any), ("Or", all)):
        node = made_by(condition, op_type)
        if node is not None:
            return combine(_not_after(value, held) for value in node.inputs)
    node = made_by(condition, "LessOrEqual") or made_by(condition, "Equal")
    return node is not None and _counts_keys(node.inputs[0]) and _counted_from(node.inputs[1]) == held


def _counts_keys(value: ir.Value | None) -> bool:
    """Whether a value is 0, 1, ... along the last of four axes."""
    numbers = constant_of(value)
    if numbers is not None:
        return numbers.ndim == 4 and np.array_equal(numbers, np.arange(numbers.shape[-1]).reshape(1, 1, 1, -1))
    shaped = made_by(value, "Reshape")
    if shaped is None or not equal_to(shaped.inputs[1], [1, 1, 1, -1]):
        return False
    numbers = constant_of(shaped.inputs[0])
    if numbers is not None:
        return np.array_equal(numbers, np.arange(numbers.size))
    return _counts(made_by(shaped.inputs[0], "Range"))
