"""The workload of GANs: latents and classes in, images out, in one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, NpzRows, expected_arrays
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import CasePlan, EvaluatorRequest, SampleRequest, Workload
from aigc_export.workloads.evaluators.images import image_evaluator
from aigc_export.workloads.images import image_evaluation_of, show_images
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import IMAGE_MEASURES
from aigc_export.workloads.samples.gan import GanData
from aigc_export.workloads.sizes import fitting_batches, image_count
from aigc_models.evaluation.paired import ProgramEvaluator
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.gan import CLASS_LABELS, LATENTS, GanPipeline
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["GAN"]

MAX_LATENT = 100.0
"""No float32 normal number comes near it."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    settings: GanSettings = program.settings
    for rows in fitting_batches(opened.session(MAIN_ENGINE), 1, 4):
        feeds: dict[str, Array] = {
            LATENTS: rng.standard_normal((rows, settings.latent_size), dtype=np.float32),
            CLASS_LABELS: rng.integers(0, settings.num_classes, size=rows, dtype=np.int64),
        }
        yield CasePlan(name=f"batch{rows}", steps=((MAIN_ENGINE, feeds),))


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    count = image_count(opened.session(MAIN_ENGINE), 8)
    return {"seed": seed, "class_labels": [i % program.settings.num_classes for i in range(count)]}


def _subject(interface: Interface, _settings: GanSettings) -> Subject:
    return Subject(interface=interface, rules=ArrayRules(limits={LATENTS: (-MAX_LATENT, MAX_LATENT)}))


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    settings: GanSettings = program.settings
    subject = _subject(part.interface, settings)
    if (rows := NpzRows.of(request.path)) is not None:
        return ArrayData(subject=subject, source=rows, most=request.samples, seed=request.seed)
    if request.path is not None:
        raise CalibrationError(
            f"{str(request.path)!r} was given for a GAN, which draws its own latents",
            hint=f"leave it out, or give an .npz: {expected_arrays(subject)}",
        )
    return GanData(settings=settings, samples=request.samples, seed=request.seed)


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    settings: GanSettings = request.settings
    labels = [i % settings.num_classes for i in range(request.samples)]

    def draw(opened: OpenProgram) -> Array:
        return GanPipeline(opened.session(MAIN_ENGINE), settings).generate(labels, seed=request.seed)

    return image_evaluator(request.reference, draw, request.evaluation, labels=labels)


GAN = Workload(
    kind="gan",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=image_evaluation_of,
    evaluator=_evaluator,
    tolerances={
        "fp32": make_tolerances(None, psnr_db=70.0, drop=0.01),
        "fp16": make_tolerances(60.0, psnr_db=65.0, drop=0.02),
        "bf16": make_tolerances(42.0, psnr_db=48.0, drop=0.05),
        "int8": make_tolerances(32.0, psnr_db=42.0, drop=0.05),
        "fp8": make_tolerances(26.0, psnr_db=35.0, drop=0.15),
        "int8-weight": make_tolerances(45.0, psnr_db=50.0, drop=0.02),
        "int4": make_tolerances(28.0, psnr_db=35.0, drop=0.15),
    },
    measures=IMAGE_MEASURES,
    budget="psnr>=51",
    showcase=show_images,
    probe_batches=4,
    foreign_limits=("min_token_agreement", *TEXT_LIMITS),
    picture_channels=lambda settings: settings.sample_shape[0],
)
