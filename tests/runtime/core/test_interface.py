"""The interface of a graph: what follows from it, and interfaces that no session could run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError

IDS = TensorSpec(name="ids", dtype="int64", shape=("batch", "sequence"), low=3, high=6)
LEVEL = TensorSpec(name="level", dtype="float32", shape=("batch",))
Y = TensorSpec(name="y", dtype="float32", shape=("batch",))
DIMS = (DimSpec(name="batch"), DimSpec(name="sequence", max=9))


def cache(part: str, **changes: Any) -> StateSpec:
    values: dict[str, Any] = {
        "input": f"past_{part}",
        "output": f"present_{part}",
        "dtype": "float32",
        "shape": ("batch", 2, 9, 4),
        "axis": 2,
        "kind": "buffer",
        "length_input": "past_length",
        "step_dim": "sequence",
    }
    return StateSpec(**{**values, **changes})


def make(**changes: Any) -> Interface:
    values: dict[str, Any] = {
        "inputs": (IDS, LEVEL),
        "outputs": (Y,),
        "dims": DIMS,
        "state": (cache("key"), cache("value")),
    }
    return Interface(**{**values, **changes})


def test_graph_inputs_and_outputs_are_in_the_order_of_the_graph() -> None:
    interface = make()
    assert [t.name for t in interface.graph_inputs] == ["ids", "level", "past_length", "past_key", "past_value"]
    assert interface.graph_outputs == ("y", "present_key", "present_value")
    length = interface.graph_inputs[2]
    assert (interface.length_inputs, length.dtype, length.shape, length.low) == (("past_length",), "int64", (1,), 0)
    stateless = make(state=())
    assert stateless.length_inputs == ()
    assert [t.name for t in stateless.graph_inputs] == ["ids", "level"]


def test_what_is_looked_up_by_name() -> None:
    interface = make()
    assert (interface.input("ids"), interface.input("y")) == (IDS, None)
    assert (interface.dim("sequence"), interface.dim("past")) == (DIMS[1], None)
    assert dict(interface.dims_by_name) == {"batch": DIMS[0], "sequence": DIMS[1]}


def test_sizes_of_outputs_follow_from_dimensions_of_inputs_and_state() -> None:
    growing = cache("key", shape=("batch", 2, "past", 4), kind="growing", length_input=None)
    outputs = tuple(
        TensorSpec(name=f"y{i}", dtype="float32", shape=("batch", size))
        for i, size in enumerate(["2*sequence", "(sequence+1)//2", "past+sequence", "batch*sequence", "past"])
    )
    dims = (*DIMS, DimSpec(name="past", min=0))
    assert make(outputs=outputs, dims=dims, state=(growing,)).outputs == outputs
    # A mask over held and new steps tells how many are held, where nothing else does.
    mask = TensorSpec(name="mask", dtype="bool", shape=("batch", "past+sequence"))
    assert make(inputs=(IDS, mask), outputs=outputs, dims=dims, state=()).outputs == outputs


def test_other_ranges_of_its_dimensions_change_nothing_else() -> None:
    interface, one = make(), (DimSpec(name="batch", max=1), DIMS[1])
    assert interface.with_dims(list(one)) == make(dims=one)
    assert interface.with_dims(list(one)).dim("batch") == one[0]
    assert interface == make()


def test_an_interface_is_frozen_and_compared_by_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().inputs = ()  # type: ignore[misc]
    assert make() == make() != make(state=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "an engine needs inputs and outputs"),
        (
            {"inputs": (TensorSpec(name="x", dtype="float32", shape=()),), "state": ()},
            "input 'x' is a scalar: it has no dimension\ngive it the shape [1] or ['batch']",
        ),
        ({"outputs": ()}, "and outputs"),
        ({"inputs": (IDS, IDS)}, "inputs holds a name twice: ['ids']"),
        ({"dims": (*DIMS, DIMS[0])}, "dims holds a name twice: ['batch']"),
        ({"dims": DIMS[:1]}, "input 'ids' has the dimension 'sequence', which dims does not declare"),
        (
            {"state": (cache("key", shape=("batch", 2, "past", 4), kind="growing", length_input=None),)},
            "input 'past_key' has the dimension 'past', which dims does not declare",
        ),
        (
            {"outputs": (TensorSpec(name="y", dtype="float32", shape=("batch", "tokens")),)},
            "output 'y' has dimension 'tokens', which no input has",
        ),
        ({"state": (cache("key"), cache("key"))}, "inputs holds a name twice: ['past_key']"),
        ({"state": (cache("key"), cache("v", output="present_key"))}, "outputs holds a name twice: ['present_key']"),
        ({"state": (cache("key", input="past_length"),)}, "inputs holds a name twice: ['past_length']"),
        (
            {"state": (cache("key"), cache("value", step_dim="batch"))},
            "the carried state steps along batch and sequence\nuse one dimension for all of it",
        ),
        (
            {
                "dims": (*DIMS, DimSpec(name="past", min=0), DimSpec(name="older", min=0)),
                "state": tuple(
                    cache(name, kind="growing", length_input=None, shape=("batch", 2, name, 4))
                    for name in ("past", "older")
                ),
            },
            "the carried state grows along older and past\nuse one dimension for all of it",
        ),
        (
            {
                "dims": (*DIMS, DimSpec(name="past", max=9)),
                "state": (cache("key", kind="growing", length_input=None, shape=("batch", 2, "past", 4)),),
            },
            "the carried state begins with 0 steps, dimension 'past' goes from 1\nlet 'past' begin at 0 (min=0)",
        ),
        (
            {"inputs": (TensorSpec(name="ids", dtype="int64", shape=("batch", "2*sequence")),)},
            "input 'ids' has size '2*sequence'\nan input's size is a number, a dimension or a sum of different ones",
        ),
        (
            {"inputs": (LEVEL, TensorSpec(name="ids", dtype="int64", shape=("batch", "sequence+tokens")))},
            "input 'ids' has the dimension 'tokens', which dims does not declare",
        ),
        (
            {
                "dims": (*DIMS, DimSpec(name="tokens")),
                "inputs": (LEVEL, TensorSpec(name="ids", dtype="int64", shape=("batch", "sequence+tokens"))),
                "state": (),
            },
            "input 'ids' has dimension 'sequence', which no input has\ninputs have: batch",
        ),
        (
            {"outputs": (TensorSpec(name="y", dtype="float32", shape=("batch", "2*(tokens//2)")),)},
            "output 'y' has dimension 'tokens', which no input has",
        ),
        ({"state": (cache("key", step_dim="tokens"),)}, "state 'past_key' steps along 'tokens', which no input has"),
        (
            {"inputs": (IDS, TensorSpec(name="level", dtype="float32", shape=("batch",), low=0))},
            "tensor 'level' is float32 and has bounds",
        ),
        (
            {"inputs": (TensorSpec(name="ids", dtype="uint8", shape=("batch", "sequence"), high=257),)},
            "tensor 'ids' has low None, high 257\nneed low < high, within uint8",
        ),
        (
            {"inputs": (IDS, TensorSpec(name="level", dtype="int64", shape=("batch",), low=0, high="tokens"))},
            "tensor 'level' has high 'tokens', and no input has the dimension 'tokens'\ninputs have: batch, sequence",
        ),
        (
            {"inputs": (IDS, TensorSpec(name="level", dtype="int64", shape=("batch",), low=0, high="2*sequence"))},
            "tensor 'level' has high '2*sequence'\na bound is a number, a dimension or a sum of different ones",
        ),
        (
            {"inputs": (IDS, TensorSpec(name="level", dtype="int64", shape=("batch",), low=1, high="sequence"))},
            "tensor 'level' has low 1, high sequence\nneed low < high, within int64",
        ),
    ],
)
def test_an_interface_that_no_session_could_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert message in str(caught.value)
