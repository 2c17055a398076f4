"""What an export needs to know about a model: its examples, and specifications that cannot be right."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from torch import nn

from aigc_models.program import Part, Program, SizeLimit, draw_like_example, example_feeds
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DimSpec, FeedChecker, StateSpec, TensorSpec
from aigc_runtime.errors import ConfigError


def cache(part: str) -> StateSpec:
    return StateSpec(
        input=f"past_{part}",
        output=f"present_{part}",
        dtype="float32",
        shape=("batch", 2, 9, 4),
        axis=2,
        kind="buffer",
        length_input="past_length",
        step_dim="sequence",
    )


INTERFACE = Interface(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=("batch", "sequence"), low=3, high=6),
        TensorSpec(name="level", dtype="float32", shape=("batch",)),
        TensorSpec(name="half", dtype="float16", shape=(64,)),
        TensorSpec(name="flags", dtype="bool", shape=(64,)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
    dims=(DimSpec(name="batch"), DimSpec(name="sequence")),
    state=(cache("key"), cache("value")),
)


def make(**changes: Any) -> Part:
    values: dict[str, Any] = {
        "module": nn.Identity(),
        "interface": INTERFACE,
    }
    return Part(**{**values, **changes})


SIZES = {"batch": 50, "sequence": 4}


def test_examples_pass_the_runtimes_own_checks_on_feeds() -> None:
    part = make()
    feeds = example_feeds(part, SIZES, seed=0)
    assert list(feeds) == [t.name for t in part.interface.graph_inputs]
    assert FeedChecker(part.interface.graph_inputs, part.interface.dims_by_name).check(feeds) == SIZES
    assert set(feeds["ids"].ravel()) == {3, 4, 5}
    assert set(feeds["flags"]) == {False, True}
    assert feeds["half"].dtype == np.float16
    for name in ("level", "half"):  # standard normal
        assert abs(feeds[name].astype(np.float64).mean()) < 0.5
        assert 0.7 < feeds[name].astype(np.float64).std() < 1.3


def test_values_of_examples_keep_to_a_bound_that_follows_from_sizes() -> None:
    places = TensorSpec(name="places", dtype="int64", shape=("kept",), low=0, high="sequence")
    interface = dataclasses.replace(
        INTERFACE, inputs=(*INTERFACE.inputs, places), dims=(*INTERFACE.dims, DimSpec(name="kept"))
    )
    for length in (1, 4, 9):
        feeds = example_feeds(make(interface=interface), {"batch": 1, "sequence": length, "kept": 500}, seed=0)
        assert set(feeds["places"]) == set(range(length))


def test_examples_follow_the_seed() -> None:
    a, b, c = (example_feeds(make(), SIZES, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["past_key"], c["past_key"])
    assert not np.array_equal(a["past_key"], a["past_value"])


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_buffer_is_partly_filled_and_has_room_for_the_new_steps(steps: int) -> None:
    held = {int(example_feeds(make(), {"batch": 1, "sequence": steps}, seed=s)["past_length"][0]) for s in range(200)}
    assert held == set(range(1, 9 - steps + 1))


def test_a_buffer_that_the_new_steps_fill_holds_nothing_before() -> None:
    assert example_feeds(make(), {"batch": 1, "sequence": 9}, seed=0)["past_length"].tolist() == [0]
    with pytest.raises(ConfigError, match="10 steps do not fit into the carried state of 9"):
        example_feeds(make(), {"batch": 1, "sequence": 10}, seed=0)


def test_example_ranges_replace_what_the_input_allows() -> None:
    part = make(example_ranges={"ids": (4, 5), "level": (100, 900)})
    feeds = example_feeds(part, SIZES, seed=0)
    assert set(feeds["ids"].ravel()) == {4}
    assert 100 <= feeds["level"].min() < 200
    assert 800 < feeds["level"].max() <= 900


def test_a_dimension_without_a_size_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no size for dimension 'sequence' of 'ids'\ngiven: \['batch'\]"):
        example_feeds(make(), {"batch": 2}, seed=0)


def test_a_range_for_what_is_no_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="example_ranges names 'levels', which is not an input"):
        make(example_ranges={"levels": (0, 1)})


def test_a_part_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "text"  # type: ignore[misc]


def test_a_limit_names_dimensions() -> None:
    assert make(limits=(SizeLimit(dims=("batch", "sequence"), max=9),)).limits[0].max == 9
    with pytest.raises(ConfigError, match="a limit on sizes names 'past', which is no dimension"):
        make(limits=(SizeLimit(dims=("past", "sequence"), max=9),))
    with pytest.raises(ConfigError, match="are at most 0 together"):
        SizeLimit(dims=("batch",), max=0)


def test_a_program_knows_its_parts() -> None:
    part = make()
    program = Program(name="p", kind="tensors", parts={"model": part}, settings=None)
    assert program.part is part
    assert program.engines == {"model": "model"}
    two = {"model": part, "other": dataclasses.replace(part, name="other")}
    with pytest.raises(ConfigError, match="the program 'p' has several parts: model, other"):
        _ = Program(name="p", kind="tensors", parts=two, settings=None).part
    with pytest.raises(ConfigError, match="the part 'model' is called 'main'"):
        Program(name="p", kind="tensors", parts={"main": part}, settings=None)
    with pytest.raises(ConfigError, match="the role 'decode' names the part 'decoder', which the program 'p' does not"):
        Program(name="p", kind="tensors", parts={"model": part}, settings=None, engines={"decode": "decoder"})
    with pytest.raises(ConfigError, match="has no parts"):
        Program(name="p", kind="tensors", parts={}, settings=None)


def test_a_program_is_known_by_its_numbers_and_its_configuration() -> None:
    def program(weight: float, **config: int) -> Program:
        linear = nn.Linear(1, 1)
        nn.init.constant_(linear.weight, weight)
        nn.init.zeros_(linear.bias)
        return Program(
            name="p", kind="tensors", parts={"model": make(module=linear)}, settings=None, model_config=config
        )

    first = program(1.0, size=3)
    assert first.weights_sha256 == program(1.0, size=3).weights_sha256
    assert len({p.module_sha256 for p in (first, program(2.0, size=3), program(1.0, size=4))}) == 3


def test_examples_are_drawn_from_a_real_one() -> None:
    feeds = example_feeds(make(examples={"level": np.array([2.5, 7.0])}), SIZES, seed=0)
    assert set(feeds["level"].tolist()) == {2.5, 7.0}


def test_examples_of_several_kinds_of_state_speak_of_one_number_of_steps() -> None:
    window = StateSpec(
        input="window",
        output="moved",
        dtype="float32",
        shape=("batch", 5),
        axis=1,
        kind="window",
        length_input="taken",
        step_dim="sequence",
    )
    growing = dataclasses.replace(
        window, input="past", output="grown", shape=("batch", "past"), kind="growing", length_input=None
    )
    recurrent = StateSpec(input="h", output="new_h", dtype="float32", shape=("batch", 3), kind="recurrent")
    dims = (*INTERFACE.dims, DimSpec(name="past", min=0, max=20))
    everything = dataclasses.replace(INTERFACE, dims=dims, state=(cache("key"), window, growing, recurrent))
    feeds = example_feeds(make(interface=everything), {**SIZES, "past": 3}, seed=0)
    assert [feeds[name].tolist() for name in ("past_length", "taken")] == [[3], [3]]
    assert (feeds["past"].shape, feeds["window"].shape, feeds["h"].shape) == ((50, 3), (50, 5), (50, 3))
    with pytest.raises(ConfigError, match="10 steps do not fit into the carried state of 9"):
        example_feeds(make(interface=everything), {**SIZES, "past": 6}, seed=0)
    only = make(interface=dataclasses.replace(INTERFACE, state=(window,)))
    taken = {int(example_feeds(only, SIZES, seed=seed)["taken"][0]) for seed in range(40)}
    assert min(taken) >= 1
    assert max(taken) > 5, "some examples have lost steps already"


def test_a_mask_keeps_its_pattern() -> None:
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    for dtype in (np.bool_, np.int64):
        drawn = draw_like_example(mask.astype(dtype), (5, 3), rng)
        assert drawn.shape == (5, 3)
        assert {tuple(row) for row in drawn.tolist()} == {(1, 1, 1), (1, 0, 0)}
    values = draw_like_example(np.array([[2, 5]]), (40, 3), rng)
    assert set(values.ravel().tolist()) == {2, 5}


def test_a_part_is_printed_without_its_module() -> None:
    part = Part(name="model", module=nn.Linear(3, 4), interface=INTERFACE)
    assert "Linear" not in repr(part)
    assert "name='model'" in repr(part)
