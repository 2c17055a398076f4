"""The kinds of carried state: shapes, room, what may stand in one model, and specs that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_runtime.core.interface import Interface
from aigc_runtime.core.state import new_steps
from aigc_runtime.core.state_kinds import STATE_KINDS
from aigc_runtime.core.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError, FeedError

DIMS = {"past": DimSpec(name="past", min=0, max=12), "batch": DimSpec(name="batch")}

SPECS: dict[str, dict[str, Any]] = {
    "growing": {"shape": ("batch", "past", 4), "axis": 1, "step_dim": "sequence"},
    "buffer": {"shape": ("batch", 9, 4), "axis": 1, "step_dim": "sequence", "length_input": "length"},
    "window": {"shape": ("batch", 5, 4), "axis": 1, "step_dim": "sequence", "length_input": "length"},
    "recurrent": {"shape": (2, "batch", 4)},
}


def spec(kind: str, **changes: Any) -> StateSpec:
    values = {"input": f"{kind}_in", "output": f"{kind}_out", "dtype": "float32", **SPECS[kind], **changes}
    return StateSpec(kind=kind, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "empty", "after_seven", "output", "room", "longest"),
    [
        ("growing", (3, 0, 4), (3, 7, 4), ("batch", "past+sequence", 4), 5, (3, 12, 4)),
        ("buffer", (3, 9, 4), (3, 9, 4), ("batch", 9, 4), 2, (3, 9, 4)),
        ("window", (3, 5, 4), (3, 5, 4), ("batch", 5, 4), None, (3, 5, 4)),
        ("recurrent", (2, 3, 4), (2, 3, 4), (2, "batch", 4), None, (2, 3, 4)),
    ],
)
def test_shapes_and_room(
    kind: str, empty: object, after_seven: object, output: object, room: int | None, longest: object
) -> None:
    one = spec(kind)
    assert (one.empty_shape(3), one.shape_at(3, 7)) == (empty, after_seven)
    assert one.output_shape == output
    assert one.room(7, DIMS) == room
    assert one.longest_shape(3, DIMS) == longest


def test_a_growing_state_without_an_end_has_room_for_any_number_of_steps() -> None:
    assert spec("growing").room(7, {}) is None
    assert spec("growing").longest_shape(3, {}) == (3, 0, 4)
    assert spec("buffer").room(7, {}) == 2


def test_what_each_kind_allows() -> None:
    assert list(STATE_KINDS) == ["growing", "buffer", "window", "recurrent"]
    facts = {name: (k.has_steps, k.takes_length, k.in_place, k.is_steady) for name, k in STATE_KINDS.items()}
    assert facts == {
        "growing": (True, False, False, False),
        "buffer": (True, True, True, True),
        "window": (True, True, False, True),
        "recurrent": (False, False, False, True),
    }


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("growing", {"axis": None}, "state 'growing_in' of kind 'growing' has axis=None\nthe axis along which"),
        ("growing", {"axis": 3}, "axis 3 outside shape ['batch', 'past', 4]"),
        ("growing", {"axis": -1}, "axis -1 outside shape"),
        ("growing", {"axis": 0}, "'batch' must be one size, every other a number, the axis of steps aside"),
        ("growing", {"step_dim": None}, "has step_dim=None\nthe dimension of the inputs that says how many steps"),
        ("growing", {"length_input": "length"}, "has length_input='length'\nthe int64 input of shape [1]"),
        (
            "growing",
            {"shape": ("batch", 9, 4)},
            "grows along axis 1 of size 9\nits size there must be a named",
        ),
        ("growing", {"shape": ("batch", "a+b", 4)}, "grows along axis 1 of size 'a+b'"),
        ("growing", {"shape": ("batch", "sequence", 4)}, "grows along axis 1 of size 'sequence'"),
        ("growing", {"shape": ("batch", "past", "width")}, "every other a number, the axis of steps aside"),
        ("growing", {"shape": (2, "past", 4)}, "'batch' must be one size"),
        ("growing", {"shape": ("batch", "past", "batch")}, "'batch' must be one size"),
        ("buffer", {"length_input": None}, "has length_input=None\nthe int64 input of shape [1] that takes the number"),
        ("buffer", {"shape": ("batch", "a+b", 4)}, "every size but 'batch' must be a number"),
        ("window", {"length_input": None}, "of kind 'window' has length_input=None"),
        ("window", {"shape": ("batch", "past", 4)}, "every size but 'batch' must be a number"),
        (
            "recurrent",
            {"axis": 2},
            "of kind 'recurrent' has axis=2\nthe axis along which steps gather; this",
        ),
        ("recurrent", {"step_dim": "sequence"}, "has step_dim='sequence'"),
        ("recurrent", {"length_input": "length"}, "has length_input='length'"),
        ("recurrent", {"shape": (2, 4)}, "'batch' must be one size, every other a number"),
        ("recurrent", {"shape": ("batch", "past")}, "'batch' must be one size, every other a number"),
        ("recurrent", {"shape": ("batch", 0)}, "sizes must be from 1 to"),
        ("recurrent", {"dtype": "bfloat16"}, "has dtype 'bfloat16'"),
    ],
)
def test_a_spec_that_means_nothing(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec(kind, **changes)
    assert message in str(caught.value)


def test_an_unknown_kind_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="has kind 'ring'\nvalid: growing, buffer, window, recurrent"):
        StateSpec(input="a", output="b", dtype="float32", shape=("batch",), kind="ring")  # type: ignore[arg-type]


def interface(*state: StateSpec, inputs: tuple[TensorSpec, ...] = (), most: int | None = 12) -> Interface:
    return Interface(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "sequence")), *inputs),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", "sequence")),),
        dims=(DimSpec(name="batch"), DimSpec(name="sequence"), DimSpec(name="past", min=0, max=most)),
        state=state,
    )


ALL = tuple(spec(kind) for kind in STATE_KINDS)


def test_all_kinds_stand_in_one_model() -> None:
    both = interface(*ALL)
    assert (both.step_dim, both.length_inputs, both.growing_dim) == ("sequence", ("length",), "past")
    assert (both.max_steps, both.has_steady_state) == (9, False)
    assert interface(ALL[0], ALL[2]).max_steps == 12
    assert interface(ALL[0], ALL[2], most=None).max_steps is None
    assert [t.name for t in both.graph_inputs] == [
        "x",
        "length",
        "growing_in",
        "buffer_in",
        "window_in",
        "recurrent_in",
    ]
    only = interface(ALL[3])
    assert (only.step_dim, only.length_inputs, only.growing_dim, only.max_steps) == (None, (), None, None)
    assert only.has_steady_state
    assert new_steps(only, {"batch": 1, "sequence": 3}, 0) == 0


def test_each_tensor_may_have_a_length_input_of_its_own() -> None:
    own = interface(spec("buffer"), spec("window", length_input="taken"))
    assert own.length_inputs == ("length", "taken")
    assert [(t.name, t.shape) for t in own.graph_inputs[1:3]] == [("length", (1,)), ("taken", (1,))]


def test_steps_that_fit_and_steps_that_do_not() -> None:
    both = interface(*ALL)
    assert new_steps(both, {"batch": 1, "sequence": 4}, 5) == 4
    with pytest.raises(FeedError, match="5 steps do not fit: the engine's carried state of at most 9 holds 5 already"):
        new_steps(both, {"batch": 1, "sequence": 5}, 5)
    assert new_steps(interface(ALL[2]), {"batch": 1, "sequence": 500}, 10**6) == 500


def test_feeds_for_another_number_of_held_steps_are_refused() -> None:
    mask = TensorSpec(name="mask", dtype="bool", shape=("batch", "past+sequence"))
    both = interface(ALL[0], inputs=(mask,))
    assert new_steps(both, {"batch": 1, "sequence": 2, "past": 5}, 5) == 2
    with pytest.raises(FeedError, match="the feeds are for past = 4, the carried state holds 5 steps"):
        new_steps(both, {"batch": 1, "sequence": 2, "past": 4}, 5)
