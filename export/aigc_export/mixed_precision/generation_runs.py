"""Record what each engine of a pipeline is run on in one generation, so that its time can be measured alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_export.workloads.recording import recorded
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines import kind_of, make_pipeline
from aigc_runtime.pipelines.kind import Roles

__all__ = ["EngineRuns", "record_generation", "time_generations"]

ROUND_SECONDS = 0.05
"""A round runs short engines several times, until it takes about as long as this."""
MAX_REPEATS = 20


@dataclass
class EngineRuns:
    """Runs of one engine on arrays of equal shapes.

    Attributes:
        feeds: of the first of these runs.
        count: how many there are in one generation.
    """

    feeds: dict[str, Array]
    count: int = 0


def record_generation(program: OpenProgram, settings: Any, roles: Roles) -> dict[str, tuple[EngineRuns, ...]]:
    """Generate once, as the kind of pipeline does it by default, and record the runs.

    Args:
        program: opened engines, none of which carries state.
        settings: of the pipeline.
        roles: role in the pipeline -> engine.

    Returns:
        Engine -> its runs, those of equal shapes together; an engine that is not run is not there.

    Raises:
        EngineError: an engine failed.
    """
    found: dict[str, dict[tuple[tuple[str, tuple[int, ...]], ...], EngineRuns]] = {}

    def record(engine: str, feeds: Mapping[str, Array], _results: Mapping[str, Array]) -> None:
        shapes = tuple((name, array.shape) for name, array in sorted(feeds.items()))
        of_engine = found.setdefault(engine, {})
        if shapes not in of_engine:
            of_engine[shapes] = EngineRuns({name: array.copy() for name, array in feeds.items()})
        of_engine[shapes].count += 1

    kind_of(settings).generate_once(make_pipeline(recorded(program, record), settings, roles))
    return {engine: tuple(runs.values()) for engine, runs in found.items()}


def time_generations(sessions: Sequence[Session], runs: Sequence[EngineRuns], rounds: int) -> list[list[float]]:
    """Time sessions of one engine in alternating rounds.

    Args:
        sessions: that take the same arrays.
        runs: of the engine in one generation.
        rounds: how often each session has its turn.

    Returns:
        [rounds][sessions]: milliseconds of all runs of a generation.
    """
    warm = [[_seconds(session, one, 1) for one in runs] for session in sessions]
    repeats = [max(1, min(MAX_REPEATS, round(ROUND_SECONDS / max(min(row), 1e-9)))) for row in zip(*warm, strict=True)]
    return [
        [
            1e3 * sum(one.count * _seconds(session, one, times) for one, times in zip(runs, repeats, strict=True))
            for session in sessions
        ]
        for _ in range(rounds)
    ]


def _seconds(session: Session, runs: EngineRuns, times: int) -> float:
    """Measure the seconds of one run, on average."""
    started = time.perf_counter()
    for _ in range(times):
        session.run(runs.feeds)
    return (time.perf_counter() - started) / times
