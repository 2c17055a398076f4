"""Calls one after the other on one state: what the engines give, as often as they take it."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_export.workloads.turns import run_turns
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.errors import InputError
from aigc_runtime.pipelines.tensors import Stage, TensorsPipeline, TensorsSettings

from ...runtime import mixed, tensor_toys


@pytest.mark.parametrize(("steps", "most", "calls"), [(2, 4, 4), (2, 9, 6), (5, 9, 2), (8, 9, 1)])
def test_turns_go_on_until_the_state_is_full(steps: int, most: int, calls: int) -> None:
    rng = np.random.default_rng(0)
    pipeline = TensorsPipeline(ArraySession(mixed.function, mixed.INTERFACE), TensorsSettings())
    first = mixed.feeds(mixed.draw(rng, 3, steps), 0)
    history, held = [], 0
    for inputs, outputs in run_turns(pipeline, first, rng, most=most):
        assert inputs["mask"].shape == (3, held + steps)
        history.append(inputs["x"])
        held += steps
        np.testing.assert_array_equal(outputs["y"], mixed.expected(history)["y"])
        assert set(inputs["x"].ravel()) <= set(first["x"].ravel())
    assert len(history) == calls


def test_engines_without_state_run_once() -> None:
    with tensor_toys.pipeline() as pipeline:
        ((inputs, outputs),) = run_turns(pipeline, tensor_toys.INPUTS, np.random.default_rng(0), most=5)
    np.testing.assert_allclose(outputs["picture"], tensor_toys.expected(tensor_toys.INPUTS)["picture"], rtol=1e-6)
    assert inputs.keys() == tensor_toys.INPUTS.keys()


def test_what_the_first_call_refuses_is_told() -> None:
    rng = np.random.default_rng(1)
    pipeline = TensorsPipeline(
        ArraySession(mixed.function, mixed.INTERFACE), TensorsSettings(stages=(Stage(repeat=2),))
    )
    first = mixed.feeds(mixed.draw(rng, 1, 2), 0)
    # The mask of the stage's second run would be for no held steps.
    with pytest.raises(InputError, match="the feeds are for past = 0, the carried state holds 2 steps"):
        list(run_turns(pipeline, first, rng, most=3))
