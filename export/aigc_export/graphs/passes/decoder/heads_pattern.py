"""Recognize the heads that an attention takes, and the rotation that their positions are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_export.graphs.passes.decoder.pattern import equal_to, made_by, permutes, scalar_of, sizes_known

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Heads", "Rotary", "match_heads", "times"]


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """The factors of a rotation of the two halves of a head, or of its first 2 F numbers: both [B, S, F]."""

    cos: ir.Value
    sin: ir.Value


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Heads as the attention takes them, and where they come from.

    Attributes:
        source: [B, S, heads * E] or, where `split` is set, [B, S, heads, E].
        split: whether `source` has an axis for the heads already.
        heads: how many.
        rotary: what they are turned by; None for none.
        nodes: from the source to the attention.
    """

    source: ir.Value
    split: bool
    heads: int
    rotary: Rotary | None
    nodes: tuple[ir.Node, ...]


def match_heads(value: ir.Value) -> Heads | None:
    """Heads [B, heads, S, E], turned or not, back to where they were split off."""
    rotation = _turned(value) or _first_part_turned(value)
    rotary, nodes, plain = (None, (), value) if rotation is None else rotation
    turned = made_by(plain, "Transpose")
    if turned is None or not permutes(turned, 0, 2, 1, 3) or turned.inputs[0] is None:
        return None
    sizes = sizes_known(turned.inputs[0])
    if sizes is None or len(sizes) != 4 or not isinstance(sizes[2], int):
        return None
    split = made_by(turned.inputs[0], "Reshape")
    source = None if split is None else sizes_known(split.inputs[0])
    if split is None or split.inputs[0] is None or source != (*sizes[:2], times(sizes[2], sizes[3])):
        return Heads(source=turned.inputs[0], split=True, heads=sizes[2], rotary=rotary, nodes=(*nodes, turned))
    return Heads(source=split.inputs[0], split=False, heads=sizes[2], rotary=rotary, nodes=(*nodes, turned, split))


def _turned(value: ir.Value) -> tuple[Rotary, tuple[ir.Node, ...], ir.Value] | None:
    """`x * [cos cos] + [x2 x1] * [-sin sin]` of the two halves x1 and x2 of x: Su 2021, eq. 34."""
    added = made_by(value, "Add")
    if added is None:
        return None
    for one, other in (added.inputs, added.inputs[::-1]):
        direct, crossed = made_by(one, "Mul"), made_by(other, "Mul")
        if direct is None or crossed is None:
            continue
        cos, sin = _doubled(direct.inputs[1], negated=False), _doubled(crossed.inputs[1], negated=True)
        swapped, x = made_by(crossed.inputs[0], "Concat"), direct.inputs[0]
        if cos is None or sin is None or swapped is None or x is None or len(swapped.inputs) != 2:
            continue
        halves = None if swapped.inputs[0] is None else made_by(swapped.inputs[0], "Split")
        if halves is None or halves.inputs[0] is not x or len(halves.outputs) != 2 or not _in_halves(halves):
            continue
        crosses = [*swapped.inputs] == [halves.outputs[1], halves.outputs[0]]
        along = {node.attributes.get_int("axis", 0) for node in (swapped, halves)}
        if crosses and along <= {-1, 3}:
            return Rotary(cos=cos, sin=sin), (added, direct, crossed, swapped, halves), x
    return None


def _first_part_turned(value: ir.Value) -> tuple[Rotary, tuple[ir.Node, ...], ir.Value] | None:
    """`Concat(turn(Slice(x, 0, R)), Slice(x, R, E))`: the first R numbers of a head are turned, the others left."""
    joined = made_by(value, "Concat")
    if joined is None or len(joined.inputs) != 2 or joined.attributes.get_int("axis", 0) not in (-1, 3):
        return None
    front, rest = joined.inputs
    rotation = None if front is None else _turned(front)
    if rotation is None:
        return None
    rotary, nodes, part = rotation
    cut, left = made_by(part, "Slice"), made_by(rest, "Slice")
    whole, sizes = sizes_known(value), sizes_known(part)
    if cut is None or left is None or cut.inputs[0] is None or whole is None or sizes is None:
        return None
    width, size = whole[-1], sizes[-1]
    if not (isinstance(width, int) and isinstance(size, int)) or sizes_known(cut.inputs[0]) != whole:
        return None
    if left.inputs[0] is not cut.inputs[0] or _cut(cut, width) != (0, size) or _cut(left, width) != (size, width):
        return None
    return rotary, (joined, *nodes, cut, left), cut.inputs[0]


def _cut(node: ir.Node, width: int) -> tuple[int, int] | None:
    """Where a Slice of the last of four axes begins and ends, step by step; None for any other."""
    starts, ends, axes, steps = (scalar_of(one) for one in (*node.inputs[1:], None, None, None, None)[:4])
    if starts is None or ends is None or axes not in (-1, 3) or steps not in (None, 1):
        return None
    return int(starts), min(int(ends), width)


def _in_halves(split: ir.Node) -> bool:
    sizes = [sizes_known(value) for value in split.outputs]
    return sizes[0] is not None and len(sizes[0]) == 4 and sizes[0] == sizes[1]


def _doubled(factor: ir.Value | None, *, negated: bool) -> ir.Value | None:
    """The x [B, S, F] of `Unsqueeze(Concat(x, x), 1)`, or of `Unsqueeze(Concat(-x, x), 1)`."""
    apart = made_by(factor, "Unsqueeze")
    twice = None if apart is None else made_by(apart.inputs[0], "Concat")
    if apart is None or twice is None or not equal_to(apart.inputs[1], [1]) or len(twice.inputs) != 2:
        return None
    first, x = twice.inputs
    if negated:
        minus = made_by(first, "Neg")
        first = None if minus is None else minus.inputs[0]
    sizes = sizes_known(x)
    along = twice.attributes.get_int("axis", 0)
    return x if first is x and sizes is not None and len(sizes) == 3 and along in (-1, 2) else None


def times(one: int | str, other: int | str) -> int | None:
    """The product of two sizes; None where one of them has a name alone."""
    return one * other if isinstance(one, int) and isinstance(other, int) else None
