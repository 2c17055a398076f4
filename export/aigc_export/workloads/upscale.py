"""The workload of generators that enlarge pictures: tiles in, larger tiles out, in one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, NpzRows
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import CasePlan, EvaluationFacts, EvaluatorRequest, SampleRequest, Workload
from aigc_export.workloads.evaluators.images import image_psnr
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import PSNR
from aigc_export.workloads.samples.upscale import (
    CALIBRATION_PHOTO,
    EVALUATION_PHOTO,
    PatchData,
    folder_patches,
    photo_patches,
    varied,
)
from aigc_export.workloads.sizes import fitting_batches
from aigc_models.data.kept_data import data_name
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import ProgramEvaluator, Scores
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.upscale import IMAGE, UpscalePipeline, UpscaleSettings

__all__ = ["UPSCALE"]

NOISE = 25 / 255
"""Standard deviation: the usual strong one, within what Real-ESRGAN is trained against (section 3.1: 1 to 30)."""
POOL = 64
"""Patches that can be evaluated on."""
POOL_SEED = 0
LEAST_PATCHES, MOST_PATCHES = 8, 32
CALIBRATION_PIXELS = 32 * 64 * 64
"""Of all patches, where they are enough for that: as many as 32 patches of 64 x 64 have."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan a patch of a photo, and another beside one with noise."""
    settings: UpscaleSettings = program.settings
    low, high = settings.value_range
    for rows in fitting_batches(opened.session(MAIN_ENGINE), 1, 2):
        patches = photo_patches(EVALUATION_PHOTO, settings, rows, int(rng.integers(2**31)))
        if rows > 1:
            noisy = patches[0] + rng.normal(0, NOISE, patches[0].shape)
            patches[0] = np.clip(noisy, 0, 1)
        feeds: dict[str, Array] = {IMAGE: patches * np.float32(high - low) + np.float32(low)}
        yield CasePlan(name=f"batch{rows}", steps=((MAIN_ENGINE, feeds),))


def _request(program: Program, _opened: OpenProgram, seed: int) -> dict[str, Any]:
    """Ask for a picture that is wider than a tile and less high: of two tiles, which are filled up."""
    settings: UpscaleSettings = program.settings
    patch = photo_patches(EVALUATION_PHOTO, settings, 1, seed)[0].transpose(1, 2, 0)
    wide = np.concatenate([patch, patch[:, ::-1][:, : max(1, settings.tile // 8)]], axis=1)
    return {IMAGE: np.ascontiguousarray(wide[: max(1, settings.tile // 2)])}


def _subject(interface: Interface, settings: UpscaleSettings) -> Subject:
    return Subject(interface=interface, rules=ArrayRules(limits={IMAGE: settings.value_range}))


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    settings: UpscaleSettings = program.settings
    if (rows := NpzRows.of(request.path)) is not None:
        subject = _subject(part.interface, settings)
        return ArrayData(subject=subject, source=rows, most=request.samples, batch=1, seed=request.seed)
    if request.path is None:
        patches = varied(photo_patches(CALIBRATION_PHOTO, settings, request.samples, request.seed), request.seed)
        return PatchData(settings=settings, patches=patches)
    patches, notes = folder_patches(
        request.path, settings, request.samples, request.seed, vary=True, error=CalibrationError
    )
    return PatchData(settings=settings, patches=patches, notes=notes)


def _evaluation(settings: UpscaleSettings, facts: EvaluationFacts) -> Evaluation:
    if facts.eval_data is None:
        patches = photo_patches(EVALUATION_PHOTO, settings, POOL, POOL_SEED)
        return Evaluation(data=f"scikit-learn's {EVALUATION_PHOTO}", has_task_metric=False, examples={IMAGE: patches})
    patches, _ = folder_patches(facts.eval_data, settings, POOL, POOL_SEED)
    return Evaluation(data=f"{data_name(facts.eval_data)!r}", has_task_metric=False, examples={IMAGE: patches})


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    """Compare whole patches, as PyTorch and as the candidate enlarge them."""
    settings: UpscaleSettings = request.settings
    patches = request.evaluation.examples[IMAGE][: request.samples].transpose(0, 2, 3, 1)

    def enlarge(opened: OpenProgram) -> Array:
        pipeline = UpscalePipeline(opened, settings, request.roles)
        return np.stack([pipeline.generate(np.ascontiguousarray(patch)) for patch in patches])

    reference = enlarge(request.reference)

    def evaluate(candidate: OpenProgram) -> Scores:
        return Scores(paired=(image_psnr(reference, enlarge(candidate), data=request.evaluation.data),))

    return evaluate


def _default_samples(_parameters: int) -> int:
    return 8


def _calibration_samples(program: Program) -> int:
    """Choose patches by their pixels: each is a row for its convolutions.

    >>> from types import SimpleNamespace as Simple
    >>> [_calibration_samples(Simple(settings=Simple(tile=tile))) for tile in (32, 64, 96, 224)]
    [32, 32, 14, 8]
    """
    settings: UpscaleSettings = program.settings
    return min(MOST_PATCHES, max(LEAST_PATCHES, CALIBRATION_PIXELS // settings.tile**2))


UPSCALE = Workload(
    kind="upscale",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=_evaluation,
    evaluator=_evaluator,
    # What trained networks reached in int8, of tensors and of photos: 24 and 37 dB (RRDBNet, 6 blocks), 29 and 44 dB
    # (SRVGGNetCompact). The others are those of any module, with as much between tensors and pictures.
    tolerances={
        "fp32": make_tolerances(None, psnr_db=80.0),
        "fp16": make_tolerances(40.0, psnr_db=50.0, cosine=0.9999),
        "bf16": make_tolerances(25.0, psnr_db=35.0, cosine=0.998),
        "int8": make_tolerances(15.0, psnr_db=27.0),
        "fp8": make_tolerances(12.0, psnr_db=24.0, cosine=0.96),
        "int8-weight": make_tolerances(25.0, psnr_db=35.0, cosine=0.998),
        "int4": make_tolerances(10.0, psnr_db=22.0, cosine=0.95),
    },
    measures=(PSNR,),
    budget="psnr>=35",
    default_samples=_default_samples,
    calibration_samples=_calibration_samples,
    half_samples=8,
    probe_batches=4,
    foreign_limits=("min_token_agreement", "max_quality_drop", *TEXT_LIMITS),
)
