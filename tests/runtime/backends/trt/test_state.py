"""Carried state of every kind at once on the simulated device: what a plain loop over the history gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import EngineError, FeedError

from ... import mixed
from .rig import Rig, Toy, leaks
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
