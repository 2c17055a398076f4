"""Latency of a session or a pipeline, and how much of it is Python around the engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.reference_arrays import read_step
from aigc_runtime.core.integers import as_integer
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array, TensorSpec
from aigc_runtime.errors import InputError
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.embeddings import CONTEXT, CONTEXT_TOKENS
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings, Pipeline, TextSettings
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["BenchResult", "Latency", "bench_generation", "bench_reference", "bench_step", "generate_once"]

PROMPT_TOKENS = 64
DECODE_TOKENS = 64
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
        unit: what one unit is: `token`, `step` or `image`.
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


def bench_step(session: Session, settings: Pipeline, *, runs: int = 50, warmup: int = 5) -> Latency:
    """Wall time of one step at batch 1: a decoded token with 64 before it, a denoising step, an image.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    step = _stepper(session, settings)
    for _ in range(warmup):
        step()
    return _summary([_timed(step) for _ in range(runs)])


def bench_reference(bundle: Bundle, program: OpenProgram, engine: str, *, runs: int = 50, warmup: int = 5) -> Latency:
    """Wall time of one step of an engine on the inputs of its first step of the reference.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    step, case, number = next(
        (step, case, i)
        for case in bundle.manifest.reference.cases
        for i, step in enumerate(case.steps)
        if step.engine == engine
    )
    feeds, _ = read_step(bundle, case, number)
    rows = len(next(iter(feeds.values())))

    def run() -> object:
        return program.run(step.engine, feeds, program.new_state(rows))

    for _ in range(warmup):
        run()
    return _summary([_timed(run) for _ in range(runs)])


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _stepper(session: Session, settings: Pipeline) -> Callable[[], object]:
    rows = _fit(session, "batch", 1)  # an engine of one batch size takes no other
    if isinstance(settings, TextSettings):
        pad = np.zeros(rows, dtype=np.int64)
        prompt = np.full((rows, min(PROMPT_TOKENS, settings.context_length // 2)), 65, dtype=np.int64)
        token = np.full((rows, 1), 65, dtype=np.int64)
        held = [session.new_state(rows)]
        session.run({"input_ids": prompt, "pad_length": pad}, held[0])

        def step() -> object:
            if held[0].length + 1 > settings.context_length:
                held[0] = session.new_state(rows)
                session.run({"input_ids": prompt, "pad_length": pad}, held[0])
            return session.run({"input_ids": token, "pad_length": pad}, held[0])

        return step
    if isinstance(settings, DiffusionSettings):
        c, h, w = settings.sample_shape
        shape = (rows, c, _fit(session, "height", h), _fit(session, "width", w))
        feeds: dict[str, Array] = {
            "sample": np.zeros(shape, dtype=np.float32),
            "timestep": np.full(rows, settings.schedule.num_train_timesteps // 2, dtype=np.float32),
        }
        for spec in session.interface.inputs:
            if spec.name == "class_labels":
                feeds[spec.name] = np.zeros(rows, dtype=np.int64)
            elif spec.name == CONTEXT:
                feeds[spec.name] = np.repeat(_context(session, spec), rows, axis=0)
        return lambda: session.run(feeds)
    latents: dict[str, Array] = {
        "latents": np.zeros((rows, settings.latent_size), np.float32),
        "class_labels": np.zeros(rows, np.int64),
    }
    return lambda: session.run(latents)


def _fit(session: Session, dim: str, size: int) -> int:
    """The size nearest to `size` that the session takes."""
    found = session.interface.dim(dim)
    return size if found is None else found.nearest(size)


def _context(session: Session, spec: TensorSpec) -> Array:
    """Zeros for one prompt of 77 tokens, or of as many as the engine takes."""
    tokens = spec.shape[1]
    if isinstance(tokens, str):
        tokens = _fit(session, tokens, CONTEXT_TOKENS)
    return np.zeros((1, tokens, int(spec.shape[2])), dtype=np.float32)


def bench_generation(session: Session, settings: Pipeline, *, runs: int = 5) -> BenchResult:
    """Wall time of whole generations at batch 1, per token, step or image.

    Raises:
        InputError: no runs.
        EngineError: the engine failed.
    """
    _check_runs(runs)
    unit, units = _units(settings)
    generate_once(session, settings)
    before = session.engine_seconds
    walls = [_timed(lambda: generate_once(session, settings)) for _ in range(runs)]
    engine = session.engine_seconds - before
    return BenchResult(
        unit=unit,
        units=units,
        per_unit=_summary([wall / units for wall in walls]),
        python_share=1 - engine / sum(walls),
    )


def _units(settings: Pipeline) -> tuple[str, int]:
    if isinstance(settings, TextSettings):
        return "token", min(DECODE_TOKENS, settings.context_length - 1)
    if isinstance(settings, DiffusionSettings):
        return "step", settings.default_steps
    return "image", 1


def generate_once(session: Session, settings: Pipeline) -> None:
    """One small generation at batch 1, of `_units` units."""
    if isinstance(settings, TextSettings):
        TextPipeline(session, settings).generate("a", max_new_tokens=_units(settings)[1])
    elif isinstance(settings, DiffusionSettings):
        _, height, width = settings.sample_shape
        context = None if (spec := session.interface.input(CONTEXT)) is None else _context(session, spec)
        DiffusionPipeline(session, settings).generate(
            None if settings.num_classes is None else [0],
            size=(_fit(session, "height", height), _fit(session, "width", width)),
            encoder_hidden_states=context,
            null_encoder_hidden_states=None if settings.default_guidance_scale == 1 else context,
        )
    else:
        GanPipeline(session, settings).generate([0])
