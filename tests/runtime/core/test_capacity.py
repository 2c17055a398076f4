"""Buffers whose capacity is a dimension: a session begins with few places, and enlarges them between runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.ort import binding
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.session import Session
from aigc_runtime.core.state import capacity_for, enlarged
from aigc_runtime.core.tensors import DimSpec, TensorSpec
from aigc_runtime.errors import ConfigError, EngineMemoryError, FeedError

from .. import toys

LONG = 400
SIDES = ["numpy", "onnxruntime", "onnxruntime, bound"]


@pytest.fixture(params=SIDES)
def session(request: pytest.FixtureRequest) -> Session:
    """The toy language model, whose cache may have up to 400 places."""
    if request.param == "numpy":
        return toys.lm_session("elastic", LONG)
    pytest.importorskip("onnxruntime")
    graph = (toys.DATA / "toy_lm_elastic.onnx").read_bytes()
    bound = True if str(request.param).endswith("bound") else None
    return OrtSession(graph, toys.lm_interface("elastic", LONG), threads=1, bound=bound)


def says(session: Session, state: Any, *rows: list[int]) -> list[int]:
    logits = session.run(toys.lm_feeds(rows), state)["logits"]
    return [int(token) for token in logits[:, -1].argmax(axis=1)]


def test_a_long_text_is_held_whole_and_memory_follows_it(session: Session) -> None:
    rng, state = np.random.default_rng(0), session.new_state(2)
    fed: list[list[int]] = [[], []]
    places: list[int] = []
    for steps in (5, 1, 30, *[1] * 40, 32, 32, *[1] * 60, 32, 32, 32, 32, 32):
        new = rng.integers(0, 256, size=(2, steps)).tolist()
        for row, tokens in zip(fed, new, strict=True):
            row += tokens
        assert says(session, state, *new) == [toys.next_token(row) for row in fed]
        places.append(state.capacity)  # type: ignore[attr-defined]
    assert state.length == len(fed[0])
    assert places[0] == 128  # 5 steps and 64 to spare
    assert places == sorted(places)
    assert len(set(places)) <= 5
    assert max(places) <= LONG


def test_what_does_not_fit_is_refused_and_nothing_is_forgotten(session: Session) -> None:
    state = session.new_state(1)
    for _ in range(12):
        says(session, state, [1] * 32)
    assert says(session, state, [1] * 16) == [400 % 256]
    with pytest.raises(FeedError, match=r"1 steps do not fit: the engine's carried state of at most 400 holds 400"):
        says(session, state, [1])
    state.truncate(399)
    assert says(session, state, [8]) == [407 % 256]


def test_memory_that_is_not_there_is_said_and_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    graph = (toys.DATA / "toy_lm_elastic.onnx").read_bytes()
    with OrtSession(graph, toys.lm_interface("elastic", LONG), threads=1) as session:
        state = session.new_state(1)
        says(session, state, [1] * 32)
        for _ in range(3):
            says(session, state, [1] * 32)  # 128 places are full

        def full(*_: object) -> None:
            raise MemoryError("Unable to allocate 1.46 GiB for an array")

        with monkeypatch.context() as patch:
            patch.setattr(binding, "enlarged", full)
            with pytest.raises(EngineMemoryError, match="the memory does not suffice for a run on input_ids"):
                says(session, state, [1])
        assert says(session, state, [1]) == [129]


def test_rows_are_chosen_and_the_state_goes_on_growing(session: Session) -> None:
    state = session.new_state(2)
    says(session, state, [1, 2], [3, 4])
    state.select([1, 1, 0])
    assert says(session, state, [1], [2], [3]) == [8, 9, 6]
    for _ in range(6):
        says(session, state, *[[0] * 32] * 3)
    assert says(session, state, [1], [2], [3]) == [9, 11, 9]


def test_how_capacities_grow() -> None:
    interface = toys.lm_interface("elastic", 1000)
    assert [capacity_for(interface, needed, held) for needed, held in [(1, 0), (64, 0), (65, 0), (500, 0)]] == [
        128, 128, 192, 576,
    ]  # fmt: skip
    assert capacity_for(interface, 128, 128) == 128
    assert capacity_for(interface, 129, 128) == 256
    assert capacity_for(interface, 577, 576) == 896  # by a half
    assert capacity_for(interface, 990, 576) == 1000
    fixed = toys.lm_interface("buffer")
    assert capacity_for(fixed, 30, 0) == 0


def test_capacities_keep_to_their_dimension() -> None:
    base = toys.lm_interface("elastic", 1000)
    odd = base.with_dims([*base.dims[:-1], DimSpec(name="capacity", min=300, max=1000, multiple_of=100)])
    assert capacity_for(odd, 1, 0) == 400  # 320, of which the next multiple
    assert capacity_for(odd, 990, 400) == 1000
    free = base.with_dims([*base.dims[:-1], DimSpec(name="capacity")])
    assert capacity_for(free, 100_000, 0) == 100_096
    assert free.max_steps is None


def test_an_enlarged_buffer_holds_what_was_held_and_no_more() -> None:
    (spec,) = toys.lm_state("elastic")
    array = np.arange(1, 9, dtype=np.float32).reshape(2, 1, 4, 1)
    larger = enlarged(array, spec, 6, 3)
    np.testing.assert_array_equal(larger[:, 0, :, 0], [[1, 2, 3, 0, 0, 0], [5, 6, 7, 0, 0, 0]])


def test_shapes_and_room() -> None:
    (spec,) = toys.lm_state("elastic")
    dims = {"capacity": DimSpec(name="capacity", max=40)}
    assert (spec.capacity_dim, spec.growing_dim) == ("capacity", None)
    assert (spec.empty_shape(3), spec.shape_at(3, 7, 16)) == ((3, 1, 0, 1), (3, 1, 16, 1))
    assert spec.output_shape == ("batch", 1, "capacity", 1)
    assert (spec.room(7, dims), spec.room(7, {})) == (33, None)
    assert spec.longest_shape(3, dims) == (3, 1, 40, 1)
    assert toys.lm_state("buffer")[0].capacity_dim is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ("batch", "heads", "capacity", 1)}, "'batch' must be one size, every other a number"),
        ({"shape": ("batch", 1, "sequence", 1)}, "or, on its axis, a dimension of its own, such as 'capacity'"),
        ({"shape": ("batch", 1, "past+sequence", 1)}, "a dimension of its own, such as 'capacity'"),
        ({"kind": "window"}, r"every size but 'batch' must be a number$"),
    ],
)
def test_specs_that_mean_nothing(changes: dict[str, Any], message: str) -> None:
    (spec,) = toys.lm_state("elastic")
    with pytest.raises(ConfigError, match=message):
        replace(spec, **changes)


def test_a_capacity_is_no_size_of_anything_else() -> None:
    base = toys.lm_interface("elastic")
    more = TensorSpec(name="mask", dtype="bool", shape=("batch", "capacity"))
    with pytest.raises(ConfigError, match="the buffers have 'capacity' places, which is a size of something else"):
        replace(base, inputs=(*base.inputs, more))
    other = replace(base.state[0], input="other", output="written", shape=("batch", 1, "room", 1))
    with pytest.raises(ConfigError, match="the carried state has buffers along capacity and room"):
        Interface(
            inputs=base.inputs,
            outputs=base.outputs,
            dims=(*base.dims, DimSpec(name="room")),
            state=(*base.state, other),
        )
