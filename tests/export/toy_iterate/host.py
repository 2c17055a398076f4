"""The host's side: what the toy kind is proven, calibrated and evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_calibration.data import CalibrationData
from aigc_calibration.data.draws import stream
from aigc_calibration.data.recorder import Recorder
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import CasePlan, EvaluationFacts, EvaluatorRequest, SampleRequest, Workload
from aigc_export.workloads.evaluators.tensors import pooled_sqnr
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import Measure
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_models.program import Part, Program
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array

from .kind import ROLE, IteratePipeline, IterateSettings, T, X

if TYPE_CHECKING:
    pass

FINAL_SQNR = Measure(name="final_sqnr_db", written="final", unit="decibels", higher_is_better=True, limit="min_sqnr_db")
BATCH = 8


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    engine = program.engines[ROLE]
    for rows in (1, 3):
        feeds = {
            X: rng.standard_normal((rows, program.settings.width), dtype=np.float32),
            T: rng.integers(0, program.settings.steps, size=rows).astype(np.float32),
        }
        assert opened.session(engine).interface.dims[0].nearest(rows) == rows
        yield CasePlan(name=f"rows{rows}", steps=((engine, feeds),))


def _request(program: Program, _opened: OpenProgram, seed: int) -> dict[str, Any]:
    start = np.random.default_rng(seed).standard_normal((3, program.settings.width), dtype=np.float32)
    return {"start": start}


@dataclass(frozen=True, kw_only=True)
class LoopData:
    program: Program
    part: Part
    samples: int
    seed: int

    @property
    def rows(self) -> int:
        return self.samples * int(self.program.settings.steps)

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        recorder = Recorder(run)
        opened = OpenProgram({self.part.name: ArraySession(recorder, self.part.interface)})
        pipeline = IteratePipeline(opened, self.program.settings, self.program.engines)
        rng = stream(self.seed, 99)
        for first in range(0, self.samples, BATCH):
            count = min(BATCH, self.samples - first)
            pipeline.generate(rng.standard_normal((count, self.program.settings.width), dtype=np.float32))
            yield from recorder.take()


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    return LoopData(program=program, part=part, samples=request.samples, seed=request.seed)


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    settings: IterateSettings = request.settings

    def draw(opened: OpenProgram) -> Array:
        return IteratePipeline(opened, settings, request.roles).generate(rows=request.samples, seed=request.seed)

    reference = draw(request.reference).astype(np.float64)

    def evaluate(candidate: OpenProgram) -> Scores:
        noise = ((draw(candidate) - reference) ** 2).sum(axis=1)
        value, error = pooled_sqnr(list(zip((reference**2).sum(axis=1), noise, strict=True)))
        return Scores(paired=(FINAL_SQNR.paired(value, standard_error=error, samples=request.samples),))

    return evaluate


def _subject(interface: Interface, settings: IterateSettings) -> Subject:
    return Subject(interface=interface, rules=ArrayRules(limits={T: (0.0, float(settings.steps - 1))}))


def _evaluation(_settings: IterateSettings, _facts: EvaluationFacts) -> Evaluation:
    return Evaluation(data="", has_task_metric=False)


WORKLOAD = Workload(
    kind="iterate",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=_evaluation,
    evaluator=_evaluator,
    tolerances={
        "fp32": make_tolerances(None),
        "int8": make_tolerances(20.0),
        "int8-weight": make_tolerances(30.0),
        "int4": make_tolerances(12.0, cosine=0.96),
        "fp16": make_tolerances(40.0),
    },
    measures=(FINAL_SQNR,),
    budget="final>=30",
    foreign_limits=("min_psnr_db", "min_token_agreement", "max_quality_drop", *TEXT_LIMITS),
)
