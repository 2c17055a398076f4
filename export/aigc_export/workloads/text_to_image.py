"""The workload of models from text to pictures: several engines, each proven alone, and whole pictures together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aigc_calibration.data import CalibrationData, NpzRows
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import ArrayRules, Subject
from aigc_export.workloads.base import CasePlan, EvaluationFacts, EvaluatorRequest, Feeds, SampleRequest, Workload
from aigc_export.workloads.evaluators.images import image_evaluator
from aigc_export.workloads.evaluators.trajectory import STEP_SQNR, Trajectory
from aigc_export.workloads.limits import TEXT_LIMITS, make_tolerances
from aigc_export.workloads.measures import PSNR
from aigc_export.workloads.recording import recorded
from aigc_export.workloads.samples.prompts import PROMPTS, choose_prompts, photo_crops, read_prompts
from aigc_export.workloads.samples.text_to_image import HEIGHT, LARGE_PROGRAM, WIDTH, PromptData, picture_arguments
from aigc_export.workloads.samples.upscale import EVALUATION_PHOTO
from aigc_export.workloads.sizes import fitting, fitting_batches
from aigc_models.evaluation.evaluation import Evaluation
from aigc_models.evaluation.paired import ProgramEvaluator
from aigc_models.program import Part, Program
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.denoiser import CONTEXT, MODEL_OUTPUT, SAMPLE, TIMESTEP
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline
from aigc_runtime.pipelines.text_to_image_request import MAX_SIDE
from aigc_runtime.pipelines.text_to_image_settings import (
    IMAGE,
    INPUT_IDS,
    LATENT,
    TEXT_EMBEDS,
    TIME_IDS,
    TIMESTEP_COND,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    TextToImageSettings,
)
from aigc_runtime.proof.paired import PairedMetric

__all__ = ["TEXT_TO_IMAGE"]

STEPS = 4
"""Of the reference's generation, and of each picture that is compared: rounding adds up from step to step."""
MAX_SAMPLE, MAX_CONTEXT, MAX_LATENT = 1e4, 1e6, 1e6
"""Largest magnitudes of inputs that leave room for odd models."""


def _cases(program: Program, opened: OpenProgram, rng: np.random.Generator) -> Iterator[CasePlan]:
    """Plan two batches of every engine at the model's own size, and a smaller size where an engine takes several."""
    settings: TextToImageSettings = program.settings
    pipeline = TextToImagePipeline(opened, settings, program.engines)
    tokens = pipeline.prompts.tokens
    for role in (*tokens, UNET, VAE_DECODER, VAE_ENCODER):
        if role not in program.engines:
            continue
        engine = program.engines[role]
        session = opened.session(engine)
        for rows, height, width in _sizes(session, settings, pixels=role == VAE_ENCODER):
            if role in tokens:
                feeds: Feeds = {INPUT_IDS: tokens[role].encode(choose_prompts(PROMPTS, rows))}
            elif role == UNET:
                feeds = _unet_feeds(pipeline, (rows, height, width), rng)
            elif role == VAE_DECODER:
                shape = (rows, settings.latent_channels, height, width)
                drawn = rng.standard_normal(shape, dtype=np.float32)
                feeds = {LATENT: drawn / np.float32(settings.scaling_factor) + np.float32(settings.shift_factor)}
            else:
                photos = photo_crops(EVALUATION_PHOTO, (height, width), rows, int(rng.integers(2**31)))
                feeds = {IMAGE: 2 * (photos.transpose(0, 3, 1, 2).astype(np.float32) / 255) - 1}
            of = "" if role in tokens else f"-{height}x{width}"
            yield CasePlan(name=f"{role}-batch{rows}{of}", steps=((engine, feeds),))


def _sizes(session: Session, settings: TextToImageSettings, *, pixels: bool) -> list[tuple[int, int, int]]:
    """Rows, height and width of an engine's cases: a picture, and where it takes them, two of another form at once."""
    own = settings.size if pixels else settings.latent_size
    h, w = fitting(session, HEIGHT, own[0]), fitting(session, WIDTH, own[1])
    batches = fitting_batches(session, 1, 2)
    dim = session.interface.dim(HEIGHT)
    other = h if dim is None else dim.nearest(h // 2)
    return list(dict.fromkeys([(batches[0], h, w), (batches[-1], other, w)]))


def _unet_feeds(pipeline: TextToImagePipeline, size: tuple[int, int, int], rng: np.random.Generator) -> Feeds:
    """Noise at the noisiest and the cleanest step, with what the text encoders make of prompts."""
    (rows, height, width), settings, unet = size, pipeline.settings, pipeline.unet.interface
    last = settings.schedule.num_train_timesteps - 1
    prompts = choose_prompts(PROMPTS, rows)
    seen = pipeline.prompts.encode(prompts)
    feeds: Feeds = {
        SAMPLE: rng.standard_normal((rows, settings.unet_channels, height, width), dtype=np.float32),
        TIMESTEP: np.linspace(last, 0, rows).round().astype(np.float32),
        **{name: np.stack([seen[prompt][name] for prompt in prompts]) for name in seen[prompts[0]]},
    }
    if (condition := unet.input(TIMESTEP_COND)) is not None:
        feeds[TIMESTEP_COND] = rng.uniform(-1, 1, (rows, int(condition.shape[1]))).astype(np.float32)
    if unet.input(TIME_IDS) is not None:
        sides = [settings.latent_scale * side for side in (height, width)]
        feeds[TIME_IDS] = np.tile(np.array([*sides, 0, 0, *sides], np.float32), (rows, 1))
    return feeds


def _request(program: Program, opened: OpenProgram, seed: int) -> dict[str, Any]:
    """Ask for a picture in few steps of the default sampler."""
    settings: TextToImageSettings = program.settings
    unet = opened.session(program.engines[UNET])
    f = settings.latent_scale
    size = [f * fitting(unet, side, own) for side, own in zip((HEIGHT, WIDTH), settings.latent_size, strict=True)]
    return {
        "prompt": PROMPTS[0],
        "steps": settings.fitting_steps(STEPS),
        "seed": seed,
        "size": size,
        "output": "images",
        **picture_arguments(settings, EVALUATION_PHOTO, np.random.default_rng(seed)),
    }


def _subject(interface: Interface, settings: TextToImageSettings) -> Subject:
    limits = {
        TIMESTEP: (0.0, float(settings.schedule.num_train_timesteps - 1)),
        SAMPLE: (-MAX_SAMPLE, MAX_SAMPLE),
        CONTEXT: (-MAX_CONTEXT, MAX_CONTEXT),
        LATENT: (-MAX_LATENT, MAX_LATENT),
        IMAGE: (-1.0, 1.0),
        TIMESTEP_COND: (-MAX_SAMPLE, MAX_SAMPLE),
        TEXT_EMBEDS: (-MAX_CONTEXT, MAX_CONTEXT),
        TIME_IDS: (0.0, float(MAX_SIDE)),
    }
    taken = {spec.name for spec in interface.inputs}
    return Subject(
        interface=interface, rules=ArrayRules(limits={name: span for name, span in limits.items() if name in taken})
    )


def _calibration(program: Program, part: Part, request: SampleRequest) -> CalibrationData:
    if request.path is not None and NpzRows.of(request.path) is not None:
        raise CalibrationError(
            f"{str(request.path)!r} holds arrays, and every engine is fed by the others",
            hint="give a text file with one prompt in each line",
        )
    prompts: tuple[str, ...] = PROMPTS
    count = request.samples
    if request.path is not None:
        prompts = read_prompts(request.path)
        count = min(count, len(prompts))
    return PromptData(program=program, part=part, prompts=tuple(choose_prompts(prompts, count)), seed=request.seed)


def _evaluation(_settings: TextToImageSettings, facts: EvaluationFacts) -> Evaluation:
    if facts.eval_data is not None:
        raise ConfigError(
            f"{str(facts.eval_data)!r} cannot evaluate a model from text to pictures",
            hint="leave --eval-data out: its pictures are compared with PyTorch's",
        )
    return Evaluation(data="", has_task_metric=False)


def _evaluator(request: EvaluatorRequest) -> ProgramEvaluator:
    """Compare pictures of the same prompts and noise, and the UNet step by step."""
    settings: TextToImageSettings = request.settings
    engine, trajectory = request.roles[UNET], Trajectory()

    def draw(opened: OpenProgram) -> Array:
        return TextToImagePipeline(opened, settings, request.roles).generate(
            # From the end: the first ones are those of the reference and of calibration with few samples.
            choose_prompts(PROMPTS[::-1], request.samples),
            seed=request.seed,
            steps=settings.fitting_steps(STEPS),
            output="images",
            **picture_arguments(settings, EVALUATION_PHOTO, np.random.default_rng(request.seed)),
        )

    def record(name: str, feeds: Mapping[str, Array], results: Mapping[str, Array]) -> None:
        if MODEL_OUTPUT in results:
            trajectory.record(name, feeds, results)

    def besides(candidate: OpenProgram) -> PairedMetric:
        return trajectory.compare(candidate.session(engine))

    return image_evaluator(recorded(request.reference, record), draw, request.evaluation, labels=None, besides=besides)


def _best_size(dim: DimSpec, part: Part, settings: TextToImageSettings) -> int | None:
    of_pictures = any(spec.name == IMAGE for spec in part.interface.inputs)
    height, width = settings.size if of_pictures else settings.latent_size
    return {HEIGHT: height, WIDTH: width}.get(dim.name)


def _default_samples(parameters: int) -> int:
    """Choose few pictures, and of a large model two, which take minutes each: its every step is compared, too."""
    return 4 if parameters < LARGE_PROGRAM else 2


def _calibration_samples(program: Program) -> int:
    """Choose few prompts: one is a row of the UNet for every step and branch, each with thousands of places."""
    return 8 if program.parameters < LARGE_PROGRAM else 4


TEXT_TO_IMAGE = Workload(
    kind="text_to_image",
    cases=_cases,
    request=_request,
    subject=_subject,
    calibration=_calibration,
    evaluation=_evaluation,
    evaluator=_evaluator,
    # Guidance multiplies what the branches differ by, rounding too: pictures are further apart than a step is.
    tolerances={
        "fp32": make_tolerances(None, psnr_db=60.0),
        "fp16": make_tolerances(40.0, psnr_db=35.0, cosine=0.9999),
        "bf16": make_tolerances(25.0, psnr_db=22.0, cosine=0.998),
        "int8": make_tolerances(15.0, psnr_db=15.0, cosine=0.98),
        "fp8": make_tolerances(12.0, psnr_db=13.0, cosine=0.96),
        "int8-weight": make_tolerances(25.0, psnr_db=22.0, cosine=0.998),
        "int4": make_tolerances(10.0, psnr_db=12.0, cosine=0.95),
    },
    measures=(PSNR, STEP_SQNR),
    budget="psnr>=25",
    default_samples=_default_samples,
    calibration_samples=_calibration_samples,
    half_samples=2,
    probe_batches=4,
    foreign_limits=("min_token_agreement", "max_quality_drop", *TEXT_LIMITS),
    best_size=_best_size,
    shapes_needed="pictures of one size go through all engines: the decoder's sides are those of the UNet",
    picture_channels=lambda _settings: 3,
)
