"""The workload of any module: arrays in, arrays out, by one engine or several in a row.

Nothing is known of what the arrays mean. So cases are the user's own example and draws at other sizes; samples to
calibrate and to evaluate on are draws of the example's own numbers; and a result is as good as its ratio of signal to
noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aigc_calibration.data import CalibrationData, NpzRows, expected_arrays
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import Subject
from aigc_export.workloads.base import CasePlan, EvaluationFacts, Feeds, SampleRequest, Workload
from aigc_export.workloads.evaluators.tensors import OUTPUT_SQNR, tensors_evaluator
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.recording import recorded
from aigc_export.workloads.samples.tensors import TensorsData
from aigc_export.workloads.tensor_inputs import are_taken, drawn_inputs, example_inputs, input_interface
from aigc_export.workloads.turns import run_turns
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.example_sizes import example_sizes
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import ConfigError, FeedError
from aigc_runtime.pipelines.tensors import TensorsPipeline, TensorsSettings

__all__ = ["TENSORS"]

MAX_STEPS = 3
"""Runs of one engine that a case keeps: the first of a loop."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan the example and two other sizes, as far as the engines take them; every engine sees what the others give."""
    small, large = (
        drawn_inputs(program, opened, larger=larger, seed=int(rng.integers(2**31))) for larger in (False, True)
    )
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for name, inputs in (("example", example_inputs(program)), ("small", small), ("large", large)):
        shapes = tuple(array.shape for array in inputs.values())
        if shapes not in seen and are_taken(program, opened, inputs):
            seen.add(shapes)
            yield CasePlan(name=name, steps=_run(program, opened, inputs, rng))
    if not seen:
        raise FeedError("the engines take no sizes of an example", hint="build them for a wider range of sizes")


def _run(
    program: Program, opened: OpenProgram, inputs: Mapping[str, Array], rng: np.random.Generator
) -> tuple[tuple[str, dict[str, Array]], ...]:
    """Run the pipeline, and return the first runs of every engine with what they were fed.

    Where state is carried there are several calls, so that what is carried is compared, too.
    """
    steps: list[tuple[str, Feeds]] = []
    runs: dict[str, int] = {}

    def record(engine: str, feeds: Mapping[str, Array], _results: Mapping[str, Array]) -> None:
        shared = opened.states.get(engine, engine)  # engines of one state are replayed up to the same moment
        runs[shared] = runs.get(shared, 0) + 1
        if runs[shared] <= MAX_STEPS:
            steps.append((engine, {name: array.copy() for name, array in feeds.items()}))

    pipeline = TensorsPipeline(recorded(opened, record), program.settings, program.engines)
    list(run_turns(pipeline, inputs, rng, most=MAX_STEPS))
    return tuple(steps)


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    """Ask for the results of the example, or of a draw where the engines do not take its sizes."""
    inputs = example_inputs(program)
    return inputs if are_taken(program, opened, inputs) else drawn_inputs(program, opened, larger=False, seed=seed)


def _subject(interface: Interface, _settings: TensorsSettings) -> Subject:
    return Subject(interface=interface)


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    source = NpzRows.of(request.path)
    if source is None and request.path is not None:
        raise CalibrationError(
            f"{str(request.path)!r} is no .npz", hint=expected_arrays(Subject(interface=input_interface(program)))
        )
    return TensorsData(program=program, part=part, source=source, most=request.samples, seed=request.seed)


def _evaluation(_settings: TensorsSettings, facts: EvaluationFacts) -> Evaluation:
    if facts.eval_data is not None:
        raise ConfigError(
            f"{str(facts.eval_data)!r} cannot evaluate a model of arrays, which has no metric on own data here",
            hint="leave --eval-data out: its outputs are compared with PyTorch's",
        )
    examples = facts.examples if facts.program is None else example_inputs(facts.program)
    return Evaluation(data="", has_task_metric=False, examples=examples)


def _best_size(dim: DimSpec, part: Part, _settings: TensorsSettings) -> int | None:
    """Take the example's own size."""
    for tensor in part.interface.inputs:
        if tensor.name in part.examples and dim.name in tensor.shape:
            return int(part.examples[tensor.name].shape[tensor.shape.index(dim.name)])
    return example_sizes(part).get(dim.name)


TENSORS = Workload(
    kind="tensors",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=_evaluation,
    evaluator=tensors_evaluator,
    tolerances={
        "fp32": make_tolerances(None),
        "fp16": make_tolerances(40.0, cosine=0.9999),
        "bf16": make_tolerances(25.0, cosine=0.998),
        "int8": make_tolerances(15.0, cosine=0.98),
        "fp8": make_tolerances(12.0, cosine=0.96),
        "int8-weight": make_tolerances(25.0, cosine=0.998),
        "int4": make_tolerances(10.0, cosine=0.95),
    },
    measures=(OUTPUT_SQNR,),
    budget="output_sqnr>=30",
    probe_batches=4,
    foreign_limits=("min_token_agreement", *TEXT_LIMITS, "min_psnr_db", "max_quality_drop"),
    best_size=_best_size,
)
