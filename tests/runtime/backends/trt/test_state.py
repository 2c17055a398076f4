"""Carried state of every kind at once on the simulated device: what a plain loop over the history gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import EngineError, FeedError

from ... import mixed
from .rig import ALIAS, Rig, Toy, leaks, lm, lm_feeds
from .simulated_gpu import SimulatedGpu

PROFILES = (
    {"batch": (1, 1, 4), "sequence": (1, 4, 8), "past": (0, 0, 16)},
    {"batch": (1, 1, 4), "sequence": (1, 1, 1), "past": (0, 8, 16)},
)
MIXED = Toy(function=mixed.function, interface=mixed.INTERFACE, profiles=PROFILES)
IN_PLACE = {"written": "buffer"}


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("plan", [{}, {"alias": IN_PLACE}])
@pytest.mark.parametrize("reuse", [False, True])
def test_generations_at_once_agree_with_a_plain_loop(plan: dict[str, Any], rtx: bool, reuse: bool) -> None:
    rig = Rig(MIXED, rtx=rtx, gpu=SimulatedGpu(reuse_addresses=reuse), **plan)
    rng = np.random.default_rng(0)
    states = [rig.session.new_state(rows) for rows in (1, 2, 4)]
    histories: list[list[np.ndarray]] = [[], [], []]
    for steps in (4, 1, 1, 3, 1, 2):
        for state, history in zip(states, histories, strict=True):
            held = sum(x.shape[1] for x in history)
            x = mixed.draw(rng, state.batch, steps)
            found = rig.session.run(mixed.feeds(x, held), state)
            history.append(x)
            for name, value in mixed.expected(history).items():
                np.testing.assert_array_equal(found[name], value, err_msg=f"{name} after {held} steps")
    assert [state.length for state in states] == [12, 12, 12]
    with pytest.raises(FeedError, match="1 steps do not fit: the engine's carried state of at most 12 holds 12"):
        rig.session.run(mixed.feeds(np.ones((1, 1), np.float32), 12), states[0])
    with pytest.raises(FeedError, match="the feeds are for past = 3, the carried state holds 12 steps"):
        rig.session.run(mixed.feeds(np.ones((1, 1), np.float32), 3), states[0])
    rig.session.close()
    del states, state
    assert leaks(rig.gpu) == []


@pytest.mark.parametrize(("output", "given"), [("moved", "window"), ("replaced", "recurrent"), ("grown", "growing")])
def test_only_a_buffer_may_be_written_in_place(output: str, given: str) -> None:
    with pytest.raises(EngineError, match=f"the engine writes '{output}' into '{given}'"):
        Rig(MIXED, alias={output: given})


def test_an_engine_whose_range_of_a_sum_is_another_one_is_refused() -> None:
    other = Toy(
        function=mixed.function,
        interface=mixed.INTERFACE,
        profiles=({**PROFILES[0], "past": (0, 0, 15)}, PROFILES[1]),
    )
    with pytest.raises(
        EngineError, match=r"takes 1 to 23 on axis 1 of 'mask', the manifest says past\+sequence 1 to 24"
    ):
        Rig(other, announced=MIXED)


def says(rig: Rig, state: Any, *tokens: int) -> list[int]:
    logits = rig.session.run(lm_feeds(*([token] for token in tokens)), state)["logits"]
    return [int(token) for token in logits[:, -1].argmax(axis=1)]


LM_PLANS = [("growing", {}), ("buffer", {}), ("buffer", {"alias": ALIAS})]


@pytest.mark.parametrize(("kind", "plan"), LM_PLANS, ids=["growing", "buffer", "in place"])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_state_is_cut_back_and_given_other_rows(kind: str, plan: dict[str, Any], reuse: bool) -> None:
    rig = Rig(lm(kind), gpu=SimulatedGpu(reuse_addresses=reuse), **plan)
    state = rig.session.new_state(2)

    rig.session.run(lm_feeds([1, 2, 3], [4, 5, 6]), state)
    assert says(rig, state, 100, 200) == [106, 215]
    state.truncate(2)
    assert says(rig, state, 7, 8) == [10, 17]
    state.select([1, 0])
    assert says(rig, state, 1, 1) == [18, 11]
    state.select([1, 1, 0])
    assert says(rig, state, 2, 3, 4) == [13, 14, 22]
    state.select([0, 1, 2])  # nothing to do
    state.select([2])
    for n in range(1, 9):
        assert says(rig, state, 1) == [22 + n]
    state.truncate(0)
    assert says(rig, state, 5) == [5]
    with pytest.raises(FeedError, match="a state of 1 steps is to be cut back to 2"):
        state.truncate(2)
    with pytest.raises(FeedError, match="of a state for 1 rows"):
        state.select([1])
    rig.session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        state.select([0, 0])
    del state
    assert leaks(rig.gpu) == []


def test_states_of_every_kind_take_other_rows() -> None:
    plans: list[dict[str, Any]] = [{}, {"alias": IN_PLACE}]
    for plan in plans:
        rig, rng = Rig(MIXED, **plan), np.random.default_rng(3)
        state, history = rig.session.new_state(2), [mixed.draw(rng, 2, steps) for steps in (3, 1, 2)]
        for i, x in enumerate(history):
            rig.session.run(mixed.feeds(x, sum(h.shape[1] for h in history[:i])), state)
        rows = [1, 1, 0, 1]
        state.select(rows)
        history = [x[rows] for x in history] + [mixed.draw(rng, 4, 1)]
        found = rig.session.run(mixed.feeds(history[-1], 6), state)
        for name, value in mixed.expected(history).items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        with pytest.raises(FeedError, match="it cannot be cut back to fewer steps"):
            state.truncate(1)


@pytest.mark.parametrize(("kind", "plan"), LM_PLANS, ids=["growing", "buffer", "in place"])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_device_that_fails_to_copy_leaves_the_state_as_it_was(kind: str, plan: dict[str, Any], call: int) -> None:
    rig = Rig(lm(kind), **plan)
    state = rig.session.new_state(1)
    rig.session.run(lm_feeds([1, 2, 3]), state)
    rig.gpu.fail_at = len(rig.gpu.calls) + call
    with pytest.raises(EngineError, match="cannot"):
        state.select([0, 0])
    rig.gpu.fail_at = None
    assert (state.length, state.batch) == (3, 1)
    assert rig.session.run(lm_feeds([4]), state)["logits"][0, -1].argmax() == 10
