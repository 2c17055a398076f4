"""Latency of a session or a pipeline, and how much of it is Python around the engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.reference_arrays import read_step
from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines import kind_of, make_pipeline
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles

__all__ = ["BenchResult", "Latency", "bench_generation", "bench_reference", "bench_speeds", "bench_step"]

MAX_RUNS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds over `runs` runs: median, and the tenth and ninetieth percentile."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One generation.

    Attributes:
        unit: what one unit is: `token`, `step`, `image` or `run`.
        units: how many there were.
        per_unit: wall time per unit.
        python_share: share of the wall time spent outside the engine itself.
    """

    unit: str
    units: int
    per_unit: Latency
    python_share: float


def _summary(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3

    return Latency(median_ms=statistics.median(ordered) * 1e3, p10_ms=at(0.1), p90_ms=at(0.9), runs=len(ordered))


def _check_runs(runs: int) -> None:
    count = as_integer(runs)
    if count is None or not 1 <= count <= MAX_RUNS:
        raise InputError(f"runs is {shown(runs)}", hint=f"must be an integer from 1 to {MAX_RUNS:,}")


def bench_step(
    program: OpenProgram | Session, settings: Any, roles: Roles = SINGLE_ENGINE, *, runs: int = 50, warmup: int = 5
) -> Latency:
    """Wall time of one step of the smallest work, as the kind of pipeline has it: a token, a denoising step, an image.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    step = kind_of(settings).step(make_pipeline(program, settings, roles))
    for _ in range(warmup):
        step()
    return _summary([_timed(step) for _ in range(runs)])


def bench_speeds(
    program: OpenProgram | Session, settings: Any, roles: Roles = SINGLE_ENGINE, *, runs: int = 5
) -> dict[str, float]:
    """What else a kind of pipeline tells of its speed, by name: medians.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    return dict(kind_of(settings).speeds(make_pipeline(program, settings, roles), runs))


def bench_reference(bundle: Bundle, program: OpenProgram, engine: str, *, runs: int = 50, warmup: int = 5) -> Latency:
    """Wall time of one step of an engine on the inputs of its first step of the reference, after all steps before it.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    case, number = next(
        (case, i)
        for case in bundle.manifest.reference.cases
        for i, step in enumerate(case.steps)
        if step.engine == engine
    )
    *before, (_, feeds) = [
        (one.engine, read_step(bundle, case, i)[0]) for i, one in enumerate(case.steps[: number + 1])
    ]

    def run() -> float:
        state = program.new_state()
        for name, earlier in before:
            program.run(name, earlier, state)
        return _timed(lambda: program.run(engine, feeds, state))

    for _ in range(warmup):
        run()
    return _summary([run() for _ in range(runs)])


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def bench_generation(
    program: OpenProgram | Session, settings: Any, roles: Roles = SINGLE_ENGINE, *, runs: int = 5
) -> BenchResult:
    """Wall time of whole generations at batch 1, per token, step or image.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    kind, pipeline = kind_of(settings), make_pipeline(program, settings, roles)
    unit, units = kind.units(pipeline)
    kind.generate_once(pipeline)
    before = pipeline.program.engine_seconds
    walls = [_timed(lambda: kind.generate_once(pipeline)) for _ in range(runs)]
    engine = pipeline.program.engine_seconds - before
    return BenchResult(
        unit=unit,
        units=units,
        per_unit=_summary([wall / units for wall in walls]),
        python_share=1 - engine / sum(walls),
    )
