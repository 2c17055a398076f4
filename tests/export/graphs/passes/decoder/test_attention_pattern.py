"""Attention over a cache is recognized with all that it is made of, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from aigc_export.graphs.passes.decoder.attention_pattern import CachedAttention, match_attention

from .decoders import decoder


def found(model: ir.Model) -> list[CachedAttention | None]:
    return [match_attention(node) for node in model.graph if node.op_type == "Softmax"]


def first(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def test_everything_of_a_layer_is_named() -> None:
    _, model = decoder()
    one = found(model)[1]
    assert one is not None
    assert (one.query.heads, one.key.heads, one.value.heads, one.head_size, one.scale) == (4, 2, 2, 16, 0.25)
    assert [one.keys.past.name, one.values.past.name] == ["past_key_1", "past_value_1"]
    assert [one.keys.present.name, one.values.present.name] == ["present_key_1", "present_value_1"]
    assert one.keys.length is None
    assert one.query.rotary == one.key.rotary is not None
    assert one.value.rotary is None
    assert one.bias.shape is not None
    assert len(one.bias.shape) == 4
    inside = {node.op_type for node in one.nodes}
    assert inside == {"Reshape", "Transpose", "Split", "Concat", "Mul", "Add", "Unsqueeze", "MatMul", "Softmax"}
    assert list(one.nodes) == [node for node in model.graph if node in set(one.nodes)]


def test_a_buffer_has_a_length() -> None:
    _, model = decoder(kind="buffer")
    assert [one is not None and one.keys.length is not None and one.keys.length.name for one in found(model)] == [
        "past_length",
        "past_length",
    ]


def test_a_soft_cap_is_named_with_its_nodes() -> None:
    _, model = decoder("soft cap")
    one, plain = found(model)[0], found(decoder()[1])[0]
    assert one is not None
    assert plain is not None
    assert (one.cap, plain.cap) == (5.0, 0.0)
    assert {node.op_type for node in one.nodes} - {node.op_type for node in plain.nodes} == {"Div", "Tanh"}


@pytest.mark.parametrize("op_type", ["Tanh", "Div"])
def test_another_bend_of_the_scores_is_not_recognized(op_type: str) -> None:
    """`c sinh(x / c)` and `c tanh(x / d)` are no soft cap of the operator's."""
    _, model = decoder("soft cap")
    bent = first(model, "Tanh")
    if op_type == "Tanh":
        bent.op_type = "Sinh"
    else:
        divided = bent.inputs[0]
        assert divided is not None
        node = divided.producer()
        assert node is not None
        other = ir.Value(name="other_cap", const_value=ir.tensor(4.0, dtype=ir.DataType.FLOAT))
        model.graph.register_initializer(other)
        node.replace_input_with(1, other)
    assert found(model)[0] is None


def other_axis(model: ir.Model) -> None:
    first(model, "Softmax").attributes["axis"] = ir.AttrInt64("axis", 2)


def keys_not_turned(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "Transpose" and len(node.attributes.get_ints("perm", ())) == 5:
            node.attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2, 3, 4])


def another_reader(model: ir.Model) -> None:
    model.graph.outputs.append(first(model, "Softmax").outputs[0])


def bias_for_each_head(model: ir.Model) -> None:
    bias = first(model, "Where").outputs[0]
    bias.shape = ir.Shape(["batch", 4, "sequence", "past + sequence"])


def other_order(model: ir.Model) -> None:
    last = next(node for node in model.graph if node.outputs[0].name == "transpose_4")
    last.attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2, 3])


@pytest.mark.parametrize("change", [other_axis, keys_not_turned, another_reader, bias_for_each_head, other_order])
def test_another_form_is_not_recognized(change: Callable[[ir.Model], None]) -> None:
    _, model = decoder()
    assert found(model)[0] is not None
    change(model)
    assert found(model)[0] is None


def test_attention_without_a_cache_is_not_recognized() -> None:
    _, model = decoder()
    model.graph.outputs.clear()
    assert found(model) == [None, None]
