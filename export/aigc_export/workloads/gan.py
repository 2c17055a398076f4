"""The workload of GANs: latents and classes in, images out, in one step, or in two with styles in between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, NpzRows, expected_arrays
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import (
    CasePlan,
    EvaluatorRequest,
    Feeds,
    SampleRequest,
    Workload,
    samples_of_pictures,
)
from aigc_export.workloads.evaluators.images import image_evaluator
from aigc_export.workloads.images import image_evaluation_of, show_images
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import IMAGE_MEASURES
from aigc_export.workloads.samples.gan import GanData, StyleData, draw_noise
from aigc_export.workloads.sizes import fitting_batches, image_count
from aigc_models.evaluation.paired import ProgramEvaluator
from aigc_models.program import Part, Program
from aigc_models.torch_session import open_torch
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.gan_engines import CLASS_LABELS, LATENTS, STYLES, GanEngines
from aigc_runtime.pipelines.gan_styles import repeated_styles
from aigc_runtime.pipelines.settings import GanSettings

__all__ = ["GAN"]

MAX_LATENT = 100.0
"""No float32 normal number comes near it."""
PSI = 0.7
"""Of the reference's request: the usual truncation of generators with styles, so that its arithmetic is proven."""
LARGE = 2**16
"""Numbers of an image beyond which fewer are kept: 128 x 128 pixels of three colors have less."""
BATCH = 16
"""Images that are calibrated on at a time."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan a run of every engine for an image, and for several: a synthesis is fed what PyTorch's mapping gives."""
    settings: GanSettings = program.settings
    engines = GanEngines(opened, settings, program.engines)
    for rows in fitting_batches(engines.last, 1, _few(settings, 4)):
        feeds: Feeds = {LATENTS: rng.standard_normal((rows, settings.latent_size), dtype=np.float32)}
        if settings.num_classes is not None:
            feeds[CLASS_LABELS] = rng.integers(0, settings.num_classes, size=rows, dtype=np.int64)
        noise = draw_noise(settings, rows, rng)
        if settings.style is None:
            yield CasePlan(name=f"batch{rows}", steps=((engines.last_name, {**feeds, **noise}),))
            continue
        ws = repeated_styles(engines.styles(feeds[LATENTS], feeds.get(CLASS_LABELS)), settings.style.layers)
        steps = ((engines.first_name, feeds), (engines.last_name, {STYLES: ws, **noise}))
        yield CasePlan(name=f"batch{rows}", steps=steps)


def _few(settings: GanSettings, count: int) -> int:
    """Choose how many images the reference holds: of large ones two."""
    return count if math.prod(settings.sample_shape) <= LARGE else min(count, 2)


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    settings: GanSettings = program.settings
    count = image_count(GanEngines(opened, settings, program.engines).last, _few(settings, 8))
    request: dict[str, Any] = {"seed": seed}
    if settings.num_classes is None:
        request["batch"] = count
    else:
        request["class_labels"] = [i % settings.num_classes for i in range(count)]
    return request if settings.style is None else {**request, "truncation": PSI}


def _subject(interface: Interface, _settings: GanSettings) -> Subject:
    limits = {LATENTS: (-MAX_LATENT, MAX_LATENT)} if interface.input(LATENTS) is not None else {}
    return Subject(interface=interface, rules=ArrayRules(limits=limits))


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    """Choose latents, of which PyTorch makes styles for a synthesis."""
    settings: GanSettings = program.settings
    engines = GanEngines(open_torch(program), settings, program.engines)
    subject = _subject(engines.first.interface, settings)
    data: CalibrationData
    if (rows := NpzRows.of(request.path)) is not None:
        data = ArrayData(subject=subject, source=rows, most=request.samples, seed=request.seed)
    elif request.path is not None:
        raise CalibrationError(
            f"{str(request.path)!r} was given for a GAN, which draws its own latents",
            hint=f"leave it out, or give an .npz: {expected_arrays(subject)}",
        )
    else:
        data = GanData(settings=settings, samples=request.samples, seed=request.seed)
    if part.name != engines.last_name or (settings.style is None and not settings.noise_sides):
        return data
    return StyleData(latents=data, engines=engines, batch=BATCH, seed=request.seed)


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    settings: GanSettings = request.settings
    classes = settings.num_classes
    labels = None if classes is None else [i % classes for i in range(request.samples)]

    def draw(opened: OpenProgram) -> Array:
        pipeline = GanPipeline(opened, settings, request.roles)
        return pipeline.generate(labels, batch=request.samples, seed=request.seed)

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
        # A StyleGAN2 with random weights, whose 3x3 convolutions have few bits, reached of tensors and of images 27 and
        # 31 dB in int8, 25 and 38 in fp8, 24 and 39 in int4; generators without styles reach 15 dB more.
        "int8": make_tolerances(32.0, psnr_db=42.0, drop=0.05),
        "fp8": make_tolerances(26.0, psnr_db=35.0, drop=0.15),
        "int8-weight": make_tolerances(45.0, psnr_db=50.0, drop=0.02),
        "int4": make_tolerances(28.0, psnr_db=35.0, drop=0.15),
    },
    measures=IMAGE_MEASURES,
    budget="psnr>=51",
    default_samples=samples_of_pictures,
    showcase=show_images,
    probe_batches=4,
    foreign_limits=("min_token_agreement", *TEXT_LIMITS),
    picture_channels=lambda settings: settings.sample_shape[0],
)
