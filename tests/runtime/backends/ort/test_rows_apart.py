"""An engine that takes several steps of one row alone: a session runs the rows one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.core.state import joined_rows, rows_of
from aigc_runtime.core.tensors import TensorSpec

from ... import toys

pytest.importorskip("onnxruntime")


class Counting:
    """ONNX Runtime's session, which notes how many rows and steps each run had."""

    def __init__(self, session: OrtSession) -> None:
        self.runs: list[tuple[int, ...]] = []
        for name in ("_run_growing", "_run_planned"):
            setattr(session, name, self._noting(getattr(session, name)))

    def _noting(self, run: Any) -> Any:
        def noted(feeds: Any, *given: Any) -> Any:
            self.runs.append(feeds["input_ids"].shape)
            return run(feeds, *given)

        return noted


def session(kind: str, *, bound: bool | None = None, apart: bool = True) -> OrtSession:
    graph = (toys.DATA / f"toy_lm_{kind}.onnx").read_bytes()
    return OrtSession(graph, toys.lm_interface(kind, 400), threads=1, bound=bound, rows_apart=apart)


def talk(session: OrtSession) -> list[Any]:
    """The logits of a conversation of three rows: prompts, steps, a longer piece, rows that change."""
    rng, state, found = np.random.default_rng(0), session.new_state(3), []
    for steps in (4, 1, 3, 1, 1):
        found.append(session.run(toys.lm_feeds(rng.integers(0, 256, (3, steps)).tolist()), state)["logits"])
    state.select([2, 0])
    for steps in (2, 1):
        found.append(session.run(toys.lm_feeds(rng.integers(0, 256, (2, steps)).tolist()), state)["logits"])
    state.truncate(5)
    found.append(session.run(toys.lm_feeds([[1, 2], [3, 4]]), state)["logits"])
    return found


@pytest.mark.parametrize("bound", [None, True])
@pytest.mark.parametrize("kind", ["growing", "buffer", "elastic"])
def test_rows_that_run_apart_give_what_they_give_together(kind: str, bound: bool | None) -> None:
    with session(kind, bound=bound) as apart, session(kind, apart=False) as together:
        runs = Counting(apart).runs
        for one, other in zip(talk(apart), talk(together), strict=True):
            np.testing.assert_array_equal(one, other)
    assert runs == [*[(1, 4)] * 3, (3, 1), *[(1, 3)] * 3, (3, 1), (3, 1), *[(1, 2)] * 2, (2, 1), *[(1, 2)] * 2]


def test_one_row_runs_as_ever() -> None:
    with session("buffer") as apart:
        runs, state = Counting(apart).runs, apart.new_state(1)
        apart.run(toys.lm_feeds([[1, 2, 3]]), state)
        apart.run(toys.lm_feeds([[4]]), state)
    assert runs == [(1, 3), (1, 1)]


def test_only_what_has_rows_is_taken_apart() -> None:
    specs = [
        TensorSpec(name="ids", dtype="int64", shape=("batch", "steps")),
        TensorSpec(name="turned", dtype="float32", shape=(2, "batch")),
        TensorSpec(name="kept", dtype="int64", shape=("kept",)),
    ]
    feeds = {"ids": np.arange(6).reshape(3, 2), "turned": np.arange(6).reshape(2, 3), "kept": np.array([1])}
    parts = [rows_of(feeds, specs, row) for row in range(3)]
    assert {name: array.tolist() for name, array in parts[1].items()} == {
        "ids": [[2, 3]], "turned": [[1], [4]], "kept": [1],
    }  # fmt: skip
    for name, array in joined_rows(parts, specs).items():
        np.testing.assert_array_equal(array, feeds[name])
