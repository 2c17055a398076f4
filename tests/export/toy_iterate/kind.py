"""The runtime's side: numpy, and no torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_runtime.core.compare import compare_arrays
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.generation.rng import TorchGenerator, check_seed
from aigc_runtime.io.npy import write_npy
from aigc_runtime.io.publish import atomic_write_bytes
from aigc_runtime.io.report import say_written
from aigc_runtime.pipelines.arguments import batch_bounds, chunks
from aigc_runtime.pipelines.kind import Metric, Option, PipelineKind, Request, ResultForm, Results, Roles, Verb
from aigc_runtime.pipelines.options import OUTPUT, SEED, given
from aigc_runtime.pipelines.requests import check_arguments, integer_check

X, T, SLOPE = "x", "t", "slope"
FINAL = "final"
ROLE = "slope_model"


@dataclass(frozen=True, kw_only=True)
class IterateSettings:
    width: int
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}", hint="at least 1")


class IteratePipeline:
    def __init__(self, program: OpenProgram, settings: IterateSettings, roles: Roles) -> None:
        if set(roles) != {ROLE}:
            raise ConfigError(f"roles are {sorted(roles)}", hint=f"an iterate pipeline has {ROLE}")
        self.program, self.settings, self.engine = program, settings, roles[ROLE]
        inputs = {spec.name: spec.shape for spec in program.session(self.engine).interface.inputs}
        if inputs.keys() != {X, T} or inputs[X][1:] != (settings.width,):
            raise ConfigError(f"the engine takes {inputs}", hint=f"needs {X} [batch, {settings.width}] and {T} [batch]")

    def generate(self, start: Array | None = None, *, rows: int = 1, seed: int = 0) -> Array:
        if start is None:
            start = TorchGenerator(check_seed(seed)).randn((rows, self.settings.width))
        if start.shape[1:] != (self.settings.width,):
            raise InputError(f"start has shape {start.shape}")
        session = self.program.session(self.engine)
        _, most = batch_bounds(session, X)
        done = []
        for some in chunks(len(start), most):
            x = np.ascontiguousarray(start[some])
            for step in range(self.settings.steps):
                t = np.full(len(x), step, dtype=np.float32)
                x = x + np.float32(self.settings.step_size) * session.run({X: x, T: t})[SLOPE]
            done.append(x)
        return np.concatenate(done)

    def close(self) -> None:
        self.program.close()

    def __enter__(self) -> IteratePipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_CHECKS = {"rows": integer_check("rows", 1000), "seed": check_seed}


def _check_request(pipeline: IteratePipeline, request: Request, arrays: Collection[str]) -> dict[str, ResultForm]:
    check_arguments(IteratePipeline.generate, request, arrays, checks=_CHECKS, array_names=("start",))
    return {FINAL: ResultForm(what="the last state", dtype="float32", shape=(None, pipeline.settings.width))}


def _sqnr(reference: Results, actual: Results) -> float:
    return compare_arrays(reference[FINAL], actual[FINAL]).sqnr_db


def _step(pipeline: IteratePipeline) -> Callable[[], object]:
    session = pipeline.program.session(pipeline.engine)
    low, _ = batch_bounds(session, X)
    feeds: dict[str, Array] = {
        X: np.zeros((low, pipeline.settings.width), np.float32),
        T: np.zeros(low, np.float32),
    }
    return lambda: session.run(feeds)


ROWS = Option(flags=("--rows",), name="rows", group="iterate", type=int, help="how many (default: 1)")


@dataclass(frozen=True, kw_only=True)
class _Job:
    output: Path
    options: dict[str, int]
    bounds_memory: bool = False

    def run(self, pipeline: IteratePipeline) -> None:
        atomic_write_bytes(self.output, write_npy(pipeline.generate(**self.options)))  # type: ignore[arg-type]

    def report(self) -> None:
        say_written(self.output, f"wrote {self.output}")


def _prepare(arguments: Namespace, _pipeline: IteratePipeline) -> _Job:
    if arguments.output is None:
        raise InputError("states need a file", hint="give -o FILE.npy")
    return _Job(output=Path(arguments.output), options=given(arguments, ROWS, SEED))


KIND = PipelineKind(
    name="iterate",
    settings=IterateSettings,
    open=lambda program, roles, settings: IteratePipeline(program, settings, roles),
    check_request=_check_request,
    replay=lambda pipeline, request: {FINAL: pipeline.generate(**request)},
    metric=Metric(name="final_sqnr_db", measure=_sqnr, limit="min_sqnr_db"),
    step=_step,
    units=lambda pipeline: ("step", pipeline.settings.steps),
    generate_once=lambda pipeline: pipeline.generate(),
    verb=lambda: Verb(options=(ROWS, SEED, OUTPUT), prepare=_prepare),
)
