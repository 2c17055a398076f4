"""The workload of diffusion models: noise, timesteps and conditions in, images out of a sampling loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, NpzRows, choose_rows
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import CasePlan, EvaluatorRequest, SampleRequest, Workload, samples_of_pictures
from aigc_export.workloads.evaluators.images import image_evaluator
from aigc_export.workloads.evaluators.trajectory import STEP_SQNR, Trajectory
from aigc_export.workloads.images import image_evaluation_of, show_images
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import IMAGE_MEASURES
from aigc_export.workloads.recording import recorded
from aigc_export.workloads.samples.diffusion import DiffusionData
from aigc_export.workloads.samples.image_folder import find_images, read_images
from aigc_export.workloads.samples.images import ImageData
from aigc_export.workloads.sizes import fitting, fitting_batches, image_count
from aigc_models.evaluation.paired import ProgramEvaluator
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.pipelines.denoiser import CLASS_LABELS, CONTEXT, CONTEXT_TOKENS, NULL_CONTEXT, SAMPLE, TIMESTEP
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["DIFFUSION"]

HEIGHT, WIDTH, TOKENS = "height", "width", "tokens"
STEPS = 10
"""Of the reference's generation."""
MAX_SAMPLE, MAX_CONTEXT = 1e4, 1e6
"""Largest magnitudes of inputs that leave room for odd models."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan batches at the noisiest, a middle and the cleanest step; a second size where the model takes several."""
    settings: DiffusionSettings = program.settings
    session = opened.session(MAIN_ENGINE)
    c, h, w = settings.sample_shape
    h, w = fitting(session, HEIGHT, h), fitting(session, WIDTH, w)
    batches = fitting_batches(session, 1, 3)
    sizes = [(rows, h, w) for rows in batches]
    if (dim := session.interface.dim(HEIGHT)) is not None:
        sizes.append((batches[0], dim.nearest(h + dim.multiple_of), w))
    last = settings.schedule.num_train_timesteps - 1
    for rows, height, width in dict.fromkeys(sizes):
        feeds: dict[str, Array] = {
            SAMPLE: rng.standard_normal((rows, c, height, width), dtype=np.float32),
            TIMESTEP: np.linspace(last, 0, rows).round().astype(np.float32),
        }
        for tensor in session.interface.inputs:
            if tensor.name == CLASS_LABELS:
                feeds[tensor.name] = rng.integers(0, tensor.high_at({}) or 1, size=rows, dtype=np.int64)
            elif tensor.name == CONTEXT:
                feeds[tensor.name] = _random_context(session, rows, rng)
        yield CasePlan(name=f"batch{rows}-{height}x{width}", steps=((MAIN_ENGINE, feeds),))


def _random_context(session: Session, rows: int, rng: np.random.Generator) -> Array:
    tensor = session.interface.input(CONTEXT)
    assert tensor is not None
    shape = (rows, fitting(session, TOKENS, CONTEXT_TOKENS), int(tensor.shape[2]))
    return rng.standard_normal(shape, dtype=np.float32)


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    """Ask for few steps of the default sampler, with a random context where the model takes one."""
    settings: DiffusionSettings = program.settings
    session = opened.session(MAIN_ENGINE)
    request: dict[str, Any] = {"seed": seed, "steps": settings.fitting_steps(STEPS)}
    rows = image_count(session, 2 if settings.num_classes is None else 4)
    request.update(_conditions(session, settings, rows, seed))
    _, h, w = settings.sample_shape
    size = [fitting(session, HEIGHT, h), fitting(session, WIDTH, w)]
    if size != [h, w]:
        request["size"] = size
    return request


def _conditions(session: Session, settings: DiffusionSettings, rows: int, seed: int) -> dict[str, Any]:
    """Ask for images of all classes in turn, or of random contexts."""
    request: dict[str, Any] = {}
    if settings.num_classes is not None:
        request["class_labels"] = [i % settings.num_classes for i in range(rows)]
    else:
        request["batch"] = rows
    if session.interface.input(CONTEXT) is not None:
        request[CONTEXT] = _random_context(session, rows, np.random.default_rng(seed))
        if settings.default_guidance_scale != 1:
            request[NULL_CONTEXT] = np.zeros_like(request[CONTEXT][:1])
    return request


def _subject(interface: Interface, settings: DiffusionSettings) -> Subject:
    limits = {
        TIMESTEP: (0.0, float(settings.schedule.num_train_timesteps - 1)),
        SAMPLE: (-MAX_SAMPLE, MAX_SAMPLE),
        CONTEXT: (-MAX_CONTEXT, MAX_CONTEXT),
    }
    return Subject(interface=interface, rules=ArrayRules(limits=limits))


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    settings: DiffusionSettings = program.settings
    subject = _subject(part.interface, settings)
    samples, seed = request.samples, request.seed
    if (rows := NpzRows.of(request.path)) is not None:
        return _from_arrays(subject, settings, rows, samples, seed)
    if request.path is None:
        return DiffusionData(subject=subject, settings=settings, samples=samples, seed=seed)
    found = find_images(request.path, settings.num_classes, settings.class_names)
    found = found.draw(samples, np.random.default_rng(seed))
    images = read_images(found, settings.sample_shape)
    return ImageData(
        subject=subject,
        settings=settings,
        images=images.pixels,
        labels=found.labels,
        samples=samples,
        seed=seed,
        notes=images.notes,
    )


def _from_arrays(
    subject: Subject, settings: DiffusionSettings, source: NpzRows, samples: int, seed: int
) -> CalibrationData:
    names = source.columns.keys()
    if CONTEXT not in names or not names <= {CONTEXT, NULL_CONTEXT}:
        return ArrayData(subject=subject, source=source, most=samples, seed=seed)
    return DiffusionData(
        subject=subject,
        settings=settings,
        samples=samples,
        seed=seed,
        context=_read(source, CONTEXT, samples, seed),
        null_context=_read(source, NULL_CONTEXT, samples, seed) if NULL_CONTEXT in names else None,
    )


def _read(source: NpzRows, name: str, samples: int, seed: int) -> Array:
    """Read at most as many rows of an array as there are samples."""
    column = source.columns[name]
    if not column.shape or 0 in column.shape:
        return column.stand_in()
    return np.stack(list(source.rows(name, choose_rows(column.shape[0], samples, seed), whole=True)))


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    settings: DiffusionSettings = request.settings
    conditions = _conditions(request.session, settings, request.samples, request.seed)
    trajectory = Trajectory()

    def draw(opened: OpenProgram) -> Array:
        return DiffusionPipeline(opened.session(MAIN_ENGINE), settings).generate(**conditions, seed=request.seed)

    def besides(candidate: OpenProgram) -> PairedMetric:
        return trajectory.compare(candidate.session(MAIN_ENGINE))

    return image_evaluator(
        recorded(request.reference, trajectory.record),
        draw,
        request.evaluation,
        labels=conditions.get("class_labels"),
        besides=besides,
    )


def _best_size(dim: DimSpec, _part: Part, settings: DiffusionSettings) -> int | None:
    _, height, width = settings.sample_shape
    return {HEIGHT: height, WIDTH: width, TOKENS: CONTEXT_TOKENS}.get(dim.name)


DIFFUSION = Workload(
    kind="diffusion",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=image_evaluation_of,
    evaluator=_evaluator,
    tolerances={
        "fp32": make_tolerances(None, psnr_db=60.0, drop=0.01),
        "fp16": make_tolerances(50.0, psnr_db=60.0, drop=0.02),
        "bf16": make_tolerances(35.0, psnr_db=45.0, drop=0.05),
        "int8": make_tolerances(25.0, psnr_db=38.0, drop=0.05),
        "fp8": make_tolerances(22.0, psnr_db=35.0, drop=0.15),
        "int8-weight": make_tolerances(40.0, psnr_db=50.0, drop=0.02),
        "int4": make_tolerances(25.0, psnr_db=35.0, drop=0.15),
    },
    measures=(IMAGE_MEASURES[0], STEP_SQNR, *IMAGE_MEASURES[1:]),
    budget="psnr>=45",
    default_samples=samples_of_pictures,
    showcase=show_images,
    probe_batches=3,
    loops=True,
    foreign_limits=("min_token_agreement", *TEXT_LIMITS),
    best_size=_best_size,
    picture_channels=lambda settings: settings.sample_shape[0],
)
