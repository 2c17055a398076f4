"""How a cache goes on is read from the graph: what is appended, where, and what a query sees of it."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from aigc_export.graphs.passes.decoder.cache_pattern import hides_later_keys, match_append

from .decoders import decoder
from .texts import graph, value


def output(model: ir.Model, name: str = "present_key_0") -> ir.Value:
    return next(one for one in model.graph.outputs if one.name == name)


def test_a_growing_cache() -> None:
    _, model = decoder()
    found = match_append(output(model))
    assert found is not None
    assert (found.past.name, found.length, found.held) == ("past_key_0", None, "past")
    assert found.new.shape == ir.Shape(["batch", 2, "sequence", 16])


def test_a_buffer() -> None:
    _, model = decoder(kind="buffer")
    found = match_append(output(model))
    assert found is not None
    assert (found.past.name, found.length) == ("past_key_0", value(model, "past_length"))
    assert found.held is found.length


def reads_past(model: ir.Model) -> None:
    made = ir.node("Relu", [value(model, "past_key_0")], name="reader")
    made.outputs[0].name, made.outputs[0].type = "read", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(made)


def along_heads(model: ir.Model) -> None:
    node = output(model).producer()
    assert node is not None
    node.attributes["axis"] = ir.AttrInt64("axis", 1)


def added_up(model: ir.Model) -> None:
    node = output(model).producer()
    assert node is not None
    node.attributes["reduction"] = ir.AttrString("reduction", "add")


def from_two(model: ir.Model) -> None:
    """Slots that begin with another number than the input."""
    for node in model.graph:
        if node.op_type == "Range" and node.inputs[0] is not None and node.inputs[0].const_value is not None:
            node.replace_input_with(0, node.inputs[2])


@pytest.mark.parametrize("change", [reads_past, along_heads, added_up, from_two])
def test_another_buffer_is_not_recognized(change: Callable[[ir.Model], None]) -> None:
    _, model = decoder(kind="buffer")
    change(model)
    assert match_append(output(model)) is None


def test_what_is_not_carried_is_no_cache() -> None:
    model = graph("float[b,2,p,4] x, float[b,2,s,4] n => float[b,2,t,4] y", "h = Relu(x) y = Concat<axis = 2>(h, n)")
    assert match_append(value(model, "y")) is None
    assert match_append(value(model, "h")) is None
    assert match_append(value(model, "x")) is None


def bias(model: ir.Model) -> ir.Value:
    return next(node for node in model.graph if node.op_type == "Where").outputs[0]


@pytest.mark.slow
def test_a_window_hides_later_keys_too() -> None:
    _, model = decoder("window", "buffer")
    both = [node.outputs[0] for node in model.graph if node.op_type == "Where"]
    assert len(both) == 2
    assert all(hides_later_keys(one, value(model, "past_length")) for one in both)


def test_a_bias_hides_later_keys() -> None:
    _, model = decoder(kind="buffer")
    assert hides_later_keys(bias(model), value(model, "past_length"))
    assert not hides_later_keys(bias(model), value(model, "input_ids"))


def test_a_bias_of_a_cache_that_grows() -> None:
    _, model = decoder()
    assert hides_later_keys(bias(model), "past")
    assert not hides_later_keys(bias(model), "sequence")


def or_in_place_of_and(model: ir.Model) -> None:
    for node in model.graph:
        node.op_type = "Or" if node.op_type == "And" else node.op_type


def earlier_hidden(model: ir.Model) -> None:
    for node in model.graph:
        node.op_type = "GreaterOrEqual" if node.op_type == "LessOrEqual" else node.op_type


def not_hidden(model: ir.Model) -> None:
    node = bias(model).producer()
    assert node is not None
    node.replace_input_with(2, node.inputs[1])


@pytest.mark.parametrize("change", [or_in_place_of_and, earlier_hidden, not_hidden, from_two])
def test_a_bias_that_shows_later_keys(change: Callable[[ir.Model], None]) -> None:
    _, model = decoder(kind="buffer")
    change(model)
    assert not hides_later_keys(bias(model), value(model, "past_length"))
    _, model = decoder()
    change(model)
    assert not hides_later_keys(bias(model), "past")
