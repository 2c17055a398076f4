"""A state is cut back to fewer steps, or given other rows, and goes on as if it had never been otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.errors import FeedError

from .. import mixed, toys

SIDES = ["numpy", "onnxruntime", "onnxruntime, bound"]


def opened(side: str, name: str) -> Session:
    if side == "numpy":
        return toys.lm_session(name) if name != "mixed" else ArraySession(mixed.function, mixed.INTERFACE)
    pytest.importorskip("onnxruntime")
    interface = mixed.INTERFACE if name == "mixed" else toys.lm_session(name).interface
    file = "toy_mixed" if name == "mixed" else f"toy_lm_{name}"
    bound = True if side.endswith("bound") else None
    return OrtSession((toys.DATA / f"{file}.onnx").read_bytes(), interface, threads=1, bound=bound)


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def says(session: Session, state: Any, *rows: list[int]) -> list[int]:
    logits = session.run(toys.lm_feeds(rows), state)["logits"]
    return [int(token) for token in logits[:, -1].argmax(axis=1)]


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_what_was_cut_off_is_forgotten(side: str, kind: str) -> None:
    session = opened(side, kind)
    state = session.new_state(2)
    says(session, state, [1, 2, 3], [4, 5, 6])
    assert says(session, state, [100], [200]) == [106, 215]
    state.truncate(2)
    assert state.length == 2
    assert says(session, state, [7], [8]) == [10, 17]
    state.truncate(3)  # as many as there are
    state.truncate(0)
    assert says(session, state, [9], [9]) == [9, 9]
    state.truncate(0)
    assert says(session, state, [1] * 30, [1] * 30) == [30, 30]
    for length in (31, -1, True, 1.0):
        with pytest.raises(FeedError, match=r"a state of 30 steps is to be cut back to .*\nmust be from 0 to 30"):
            state.truncate(length)  # type: ignore[arg-type]
    assert state.length == 30


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_rows_are_taken_in_any_order_and_number(side: str, kind: str) -> None:
    session = opened(side, kind)
    state = session.new_state(3)
    says(session, state, [1, 1], [2, 2], [3, 3])
    for rows, expected in (([2, 0, 1], [16, 12, 14]), ([0, 0, 1, 2], [26, 26, 22, 24]), ([3], [34])):
        state.select(rows)
        assert says(session, state, *[[10]] * len(rows)) == expected
    state.select([0])
    assert says(session, state, [1]) == [35]
    for bad in ([], [1], [-1], [True], [0.0]):
        with pytest.raises(FeedError, match=r"of a state for 1 rows\nmust be one or more integers from 0 to 0"):
            state.select(bad)  # type: ignore[arg-type]


def test_states_of_every_kind_take_other_rows(side: str) -> None:
    session = opened(side, "mixed")
    rng, state = np.random.default_rng(3), session.new_state(2)
    history = [mixed.draw(rng, 2, steps) for steps in (3, 1, 2)]
    for i, x in enumerate(history):
        session.run(mixed.feeds(x, sum(h.shape[1] for h in history[:i])), state)
    rows = [1, 1, 0, 1]
    state.select(rows)
    history = [x[rows] for x in history] + [mixed.draw(rng, 4, 1)]
    found = session.run(mixed.feeds(history[-1], 6), state)
    for name, value in mixed.expected(history).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_window_or_a_recurrent_tensor_cannot_be_cut_back(side: str) -> None:
    session = opened(side, "mixed")
    state = session.new_state(1)
    session.run(mixed.feeds(np.ones((1, 3), np.float32), 0), state)
    state.truncate(3)
    with pytest.raises(FeedError, match="state 'window' is 'window': it cannot be cut back to fewer steps"):
        state.truncate(2)
    assert state.length == 3


def two_states() -> OpenProgram:
    sessions = {name: toys.lm_session(name) for name in ("growing", "buffer")}
    return OpenProgram(sessions, {name: name for name in sessions})


@pytest.mark.parametrize("batch", [None, 2])
def test_all_states_of_a_program_are_cut_together(batch: int | None) -> None:
    program = two_states()
    state = program.new_state(batch)
    state.truncate(0)  # nothing was made yet
    feeds: Callable[..., Any] = lambda *rows: toys.lm_feeds(rows)  # noqa: E731
    for name in program.sessions:
        program.run(name, feeds([1, 2], [3, 4]), state)
    state.truncate(1)
    state.select([1])
    for name in program.sessions:
        assert program.run(name, feeds([10]), state)["logits"][0, -1].argmax() == 13
    program.run("buffer", feeds([1]), state)
    with pytest.raises(FeedError, match="a state of 2 steps is to be cut back to 3"):
        state.truncate(3)
    assert [one.length for one in state.held.values()] == [2, 3]
