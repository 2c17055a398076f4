"""Heads are followed back to what they were split off, and their rotation to its angles."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from aigc_export.graphs.passes.decoder.heads_pattern import Heads, Rotary, match_heads, times

from .texts import graph, value

SIGNATURE = "float[b,s,32] x, float[b,s,8] cos, float[b,s,8] sin => float[b,2,s,16] y"
SPLIT = """ sizes = Constant<value_ints = [0, 0, 2, 16]>()
    heads = Reshape(x, sizes)
    h = Transpose<perm = [0, 2, 1, 3]>(heads)"""
TURN = """ c = Concat<axis = -1>(cos, cos)
    minus = Neg(sin)
    n = Concat<axis = -1>(minus, sin)
    axis = Constant<value = int64[1] {1}>()
    cu = Unsqueeze(c, axis)
    nu = Unsqueeze(n, axis)
    one, two = Split<axis = 3, num_outputs = 2>(h)
    swapped = Concat<axis = -1>(two, one)
    direct = Mul(h, cu)
    crossed = Mul(swapped, nu)
    y = Add(direct, crossed)"""


PART = "float[b,s,48] x, float[b,s,8] cos, float[b,s,8] sin => float[b,2,s,24] y"
SPLIT_WIDER = SPLIT.replace("[0, 0, 2, 16]", "[0, 0, 2, 24]").replace(" h =", " all =")
CUT = """ from = Constant<value_ints = [0]>()
    middle = Constant<value_ints = [16]>()
    end = Constant<value_ints = [9223372036854775807]>()
    last = Constant<value_ints = [3]>()
    step = Constant<value_ints = [1]>()
    h = Slice(all, from, middle, last, step)
    rest = Slice(all, middle, end, last, step)"""
JOIN = " y = Concat<axis = -1>(turned, rest)"


def heads_of(body: str, signature: str = SIGNATURE) -> Heads | None:
    model = graph(signature, body)
    for node in [node for node in model.graph if node.op_type == "Constant"]:
        attribute = next(iter(node.attributes.values()))
        numbers = ir.tensor(list(attribute.as_ints())) if attribute.name == "value_ints" else attribute.as_tensor()
        made = ir.Value(name=f"{node.outputs[0].name}_number", const_value=numbers)
        model.graph.register_initializer(made)
        node.outputs[0].replace_all_uses_with(made)
        model.graph.remove(node, safe=True)
    found = match_heads(value(model, "y"))
    assert found is None or found.source in (value(model, "x"), value(model, "heads"))
    assert found is None or found.rotary in (None, Rotary(cos=value(model, "cos"), sin=value(model, "sin")))
    return found


def test_turned_heads() -> None:
    found = heads_of(SPLIT + TURN)
    assert found is not None
    assert (found.heads, found.split) == (2, False)
    assert found.rotary is not None
    assert [node.op_type for node in found.nodes] == ["Add", "Mul", "Mul", "Concat", "Split", "Transpose", "Reshape"]


TURNED_PART = SPLIT_WIDER + CUT + TURN.replace("y = Add", "turned = Add") + JOIN


def test_the_first_part_of_heads_is_turned() -> None:
    found = heads_of(TURNED_PART, PART)
    assert found is not None
    assert (found.heads, found.split) == (2, False)
    assert found.rotary is not None
    assert [node.op_type for node in found.nodes[-4:]] == ["Slice", "Slice", "Transpose", "Reshape"]


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace("(turned, rest)", "(rest, turned)"),
        lambda body: body.replace("Slice(all, middle, end,", "Slice(all, from, middle,"),
        lambda body: body.replace("Slice(all, mid", "Slice(no, mid").replace(" h = Slice", " no = Neg(all) h = Slice"),
        lambda body: body.replace("[1]>()\n    h", "[2]>()\n    h"),
        lambda body: body.replace("rest = Slice(all, middle, end, last, step)", "rest = Neg(h)"),
    ],
    ids=["the last part", "one part twice", "parts of two", "every other number", "no part"],
)
def test_other_parts_are_not_recognized(change: Callable[[str], str]) -> None:
    assert change(TURNED_PART) != TURNED_PART
    signature = PART.replace("s,24] y", "s,p] y")
    assert heads_of(TURNED_PART, signature) is not None
    assert heads_of(change(TURNED_PART), signature) is None


def test_heads_that_are_not_turned() -> None:
    found = heads_of(SPLIT + " y = Identity(h)")
    assert found is None
    found = heads_of(SPLIT.replace(" h =", " y ="))
    assert found is not None
    assert found.rotary is None


def test_normed_heads_are_taken_behind_the_norm() -> None:
    normed = SPLIT.replace("Reshape(x, sizes)", "Relu(flat)").replace(" heads =", " flat = Reshape(x, sizes) heads =")
    found = heads_of(normed + TURN)
    assert found is not None
    assert (found.heads, found.split) == (2, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace("(two, one)", "(one, two)"),
        lambda body: body.replace("Concat<axis = -1>(cos, cos)", "Concat<axis = -1>(cos, sin)"),
        lambda body: body.replace("(minus, sin)", "(sin, minus)"),
        lambda body: body.replace("Neg(sin)", "Neg(cos)"),
        lambda body: body.replace("Mul(h, cu)", "Mul(swapped, cu)"),
        lambda body: body.replace("perm = [0, 2, 1, 3]", "perm = [0, 2, 3, 1]"),
        lambda body: body.replace("num_outputs = 2>(h)", "num_outputs = 2>(cu)"),
    ],
    ids=["not crossed", "two cosines", "other sign", "other angle", "not direct", "other axes", "halves of another"],
)
def test_another_rotation_is_not_recognized(change: Callable[[str], str]) -> None:
    assert change(SPLIT + TURN) != SPLIT + TURN
    found = heads_of(change(SPLIT + TURN))
    assert found is None


def test_named_sizes_have_no_product() -> None:
    assert times(3, 4) == 12
    assert times("b", 4) is times(3, "s") is None
