"""What every engine of a pipeline is run on in one generation, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from aigc_export.mixed_precision.generation_runs import EngineRuns, record_generation, time_generations
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings


def session(given: str, made: str, *, seconds: float = 0.0, factor: float = 2.0) -> ArraySession:
    inputs, outputs = (TensorSpec(name=name, dtype="float32", shape=("batch", 4)) for name in (given, made))

    def call(feeds: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(seconds)
        return {made: np.float32(factor) * feeds[given]}

    return ArraySession(call, Interface(inputs=(inputs,), outputs=(outputs,), dims=(DimSpec(name="batch", max=4),)))


def test_runs_are_counted_and_the_first_feeds_kept() -> None:
    program = OpenProgram({"a": session("x", "y"), "b": session("y", "z"), "c": session("z", "w")})
    settings = TensorsSettings(stages=(Stage(role="one"), Stage(role="two", repeat=9, feedback={"z": "y"})))
    found = record_generation(program, settings, {"one": "a", "two": "b"})
    assert found.keys() == {"a", "b"}  # nothing runs the third
    (once,), (looped,) = found["a"], found["b"]
    assert (once.count, looped.count) == (1, 9)
    np.testing.assert_array_equal(looped.feeds["y"], 2 * once.feeds["x"])


def test_the_time_of_all_runs_of_a_generation() -> None:
    feeds = {"x": np.ones((1, 4), np.float32)}
    fast, slow = session("x", "y", seconds=0.001), session("x", "y", seconds=0.004)
    rounds = time_generations([fast, slow], [EngineRuns(feeds, 10), EngineRuns(feeds, 5)], 3)
    assert np.shape(rounds) == (3, 2)
    quick, long = np.median(rounds, axis=0)
    assert 15 <= quick < 40
    assert 60 <= long < 120
    assert long / quick == pytest.approx(4, rel=0.5)
