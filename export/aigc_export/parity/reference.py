"""Compute with PyTorch the arrays that a bundle carries as its proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_export.workloads import get_workload
from aigc_models.program import Program
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CheckpointError, EngineError
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.pipelines.replay import run_request

__all__ = ["Case", "Generation", "Step", "make_cases", "make_generation"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an engine: arrays by graph name."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    engine: str = MAIN_ENGINE


@dataclass(frozen=True, kw_only=True)
class Case:
    """Steps that ran one after the other on one carried state."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A request to the pipeline, keyword arguments of its `generate`, and the arrays of its result by name."""

    request: dict[str, Any]
    outputs: dict[str, Array]


def make_cases(sessions: OpenProgram | Session, program: Program, *, seed: int) -> tuple[Case, ...]:
    """Run seeded inputs through PyTorch: several shapes, and for carried state several steps.

    Args:
        sessions: PyTorch's; their dimensions bound the shapes, so that an engine for fewer of them can be proven.
        program: the model.
        seed: of the inputs.
    """
    opened = as_program(sessions)
    cases = []
    for plan in get_workload(program.kind).cases(program, opened, np.random.default_rng(seed)):
        state = opened.new_state()
        steps = [
            Step(engine=engine, inputs=feeds, outputs=opened.run(engine, feeds, state)) for engine, feeds in plan.steps
        ]
        cases.append(Case(name=plan.name, steps=tuple(steps)))
    return tuple(cases)


def make_generation(sessions: OpenProgram | Session, program: Program, *, seed: int) -> Generation:
    """Let PyTorch generate once, through the same pipeline as the bundle will.

    Args:
        sessions: PyTorch's; their dimensions bound the request.
        program: the model.
        seed: of the request.

    Raises:
        CheckpointError: the model gives NaN or infinity.
    """
    opened = as_program(sessions)
    request = get_workload(program.kind).request(program, opened, seed)
    try:
        outputs = run_request(make_pipeline(opened, program.settings, program.engines), request)
    except EngineError as err:
        raise CheckpointError(
            f"PyTorch cannot generate with this model: {err.message}",
            hint="check the weights, and the noise schedule in config.json",
        ) from err
    return Generation(request=request, outputs=outputs)
