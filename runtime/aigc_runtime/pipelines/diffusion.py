"""Image generation by a diffusion model.

Shapes: N images, C channels, H height, W width.

All noise comes from one generator: first x_T, then what the sampler asks for, step by step. The same seed gives the
same noise as `torch.randn(..., generator=torch.Generator().manual_seed(seed))`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aigc_runtime.core.program import MAIN_ENGINE, OpenProgram, as_program
from aigc_runtime.core.ranges import MAX_GUIDANCE_SCALE
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.generation.noise import NoiseStream
from aigc_runtime.generation.rng import check_seed
from aigc_runtime.generation.samplers import sample
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import (
    batch_bounds,
    check_count,
    check_labels,
    check_number,
    chunks,
    require_tensors,
)
from aigc_runtime.pipelines.denoiser import (
    CLASS_LABELS,
    CONTEXT,
    MODEL_OUTPUT,
    NULL_CONTEXT,
    SAMPLE,
    TIMESTEP,
    Denoiser,
)
from aigc_runtime.pipelines.kind import SINGLE_ENGINE, Roles, require_roles
from aigc_runtime.pipelines.limits import check_image_count, check_numbers, check_size, rows_at_once
from aigc_runtime.pipelines.sampling import Cancel, Progress, Sampling, StepCounter, plan_sampling, run_steps
from aigc_runtime.pipelines.settings import DiffusionSettings

__all__ = ["CLASS_LABELS", "CONTEXT", "MODEL_OUTPUT", "NULL_CONTEXT", "SAMPLE", "TIMESTEP", "DiffusionPipeline"]

_ARGUMENTS = frozenset(
    {"batch", "steps", "sampler", "eta", "guidance_scale", "guidance_rescale", "seed", "size", CONTEXT, NULL_CONTEXT}
)
"""Of `generate`, besides the labels and what both name themselves."""
_CONDITIONS = {CLASS_LABELS: ("int64", (None,)), CONTEXT: ("float32", (None, None, None))}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What `generate` was asked for, checked.

    Attributes:
        count: N.
        shape: (C, H, W).
        conditions: of the N images, by input name.
        null: the same for "no condition"; None without guidance.
        scale: of the guidance.
        rescale: of the guided output.
        sampling: how it is sampled.
        seed: of all noise.
    """

    count: int
    shape: tuple[int, int, int]
    conditions: dict[str, Array]
    null: dict[str, Array] | None
    scale: float
    rescale: float
    sampling: Sampling
    seed: int


class DiffusionPipeline:
    """Generates images with a diffusion UNet.

    Args:
        program: one engine, or the session of it, with the inputs `sample` [N, C, H, W], `timestep` [N] and, where the
            model takes them, `class_labels` [N] and `encoder_hidden_states` [N, T, X]; output `model_output`
            [N, C, H, W], or [N, 2 C, H, W] where the schedule's variance is learned.
        settings: schedule, shape and defaults.
        roles: which engine is the `model`.

    Raises:
        ConfigError: other roles, or the engine has other inputs or outputs, or other sizes.
    """

    def __init__(
        self, program: OpenProgram | Session, settings: DiffusionSettings, roles: Roles = SINGLE_ENGINE
    ) -> None:
        require_roles("diffusion", roles, (MAIN_ENGINE,))
        self.program = as_program(program)
        session = self.session = self.program.session(roles[MAIN_ENGINE])
        self._names = {spec.name for spec in session.interface.inputs}
        c, h, w = settings.sample_shape
        taken = {name: wanted for name, wanted in _CONDITIONS.items() if name in self._names}
        given = 2 * c if settings.schedule.learns_variance else c
        require_tensors(
            session,
            inputs={SAMPLE: ("float32", (None, c, h, w)), TIMESTEP: ("float32", (None,)), **taken},
            outputs={MODEL_OUTPUT: ("float32", (None, given, h, w))},
        )
        self.settings = settings

    def close(self) -> None:
        """Close the program."""
        self.program.close()

    def __enter__(self) -> DiffusionPipeline:
        """The pipeline, its program closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the program."""
        self.close()

    def generate(
        self,
        class_labels: Sequence[int] | None = None,
        *,
        batch: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        encoder_hidden_states: Array | None = None,
        null_encoder_hidden_states: Array | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Array:
        """Draw images.

        Args:
            class_labels: one per image, for a model with classes.
            batch: number of images, for a model without; else it follows from the labels or the context.
            steps: sampling steps; None takes the bundle's default, as for the next three.
            sampler: one of `aigc_runtime.generation.samplers.SAMPLERS`. The bundle's default runs as its
                `sampler_config` says, others as the papers do.
            eta: share of fresh noise in DDIM, 0 to 1; the other samplers take none.
            guidance_scale: w of classifier-free guidance, eps = eps_null + w (eps_class - eps_null) (Ho & Salimans
                2022, eq. 6, with w = 1 + their w); 1 means none.
            guidance_rescale: how far the guided output is brought back to the deviation of the conditional one, 0 to 1
                (Lin et al. 2023, section 3.4); strong guidance overexposes without.
            seed: of all noise.
            size: (H, W), where the engine takes several.
            encoder_hidden_states: [N, T, X] float32, for a model with cross-attention.
            null_encoder_hidden_states: [N, T, X] or [1, T, X], the same for "no condition", needed for guidance.
            progress: called as progress(step, steps) after every step; images beyond what the engine takes at once
                are made one group after the other, and the steps of all groups are counted.
            cancel: asked before every step.

        Returns:
            [N, C, H, W] float32, the samples as the sampler ends with them: within `schedule.sample_bound` where the
            schedule clips its prediction, as that of a pixel model in [-1, 1] does, and the sampler ends with that;
            unbounded where it does not, as for latents. What writes pictures clips to [-1, 1].

        Raises:
            InputError: a bad argument, or a result that is too large; says which and what is allowed.
            CancelledError: `cancel` said so.
            EngineError: the engine failed, or gave NaN.
        """
        request = self._request(
            class_labels,
            batch=batch,
            steps=steps,
            sampler=sampler,
            eta=eta,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            seed=seed,
            size=size,
            encoder_hidden_states=encoder_hidden_states,
            null_encoder_hidden_states=null_encoder_hidden_states,
        )
        whole = (request.count, *request.shape)
        check_numbers(
            "the result", whole, hint="stream() gives the images one by one, and `-o FILE.npy` writes them so"
        )
        result: Array = np.empty(whole, dtype=np.float32)
        for rows, images in self._groups(request, progress, cancel):
            result[rows] = images
        return result

    def stream(
        self,
        class_labels: Sequence[int] | None = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **arguments: Any,
    ) -> Iterator[Array]:
        """Draw images, of which only a few are in memory at once; takes the arguments of `generate`.

        Yields:
            [C, H, W] float32: the very images of `generate`, in their order.

        Raises:
            InputError: as `generate` does, at once.
            UnknownNameError: an argument that `generate` does not take.
        """
        if unknown := arguments.keys() - _ARGUMENTS:
            raise UnknownNameError("argument of stream", min(unknown), _ARGUMENTS)
        request = self._request(class_labels, **arguments)
        return self._stream(request, progress, cancel)

    def _stream(self, request: _Request, progress: Progress | None, cancel: Cancel | None) -> Iterator[Array]:
        for _, images in self._groups(request, progress, cancel):
            yield from images

    def _request(
        self,
        class_labels: Sequence[int] | None,
        *,
        batch: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        encoder_hidden_states: Array | None = None,
        null_encoder_hidden_states: Array | None = None,
    ) -> _Request:
        settings = self.settings
        sampling = plan_sampling(settings, steps=steps, sampler=sampler, eta=eta)
        scale = settings.default_guidance_scale if guidance_scale is None else guidance_scale
        scale = check_number("guidance_scale", scale, 0.0, MAX_GUIDANCE_SCALE)
        conditions = self._conditions(class_labels, encoder_hidden_states)
        null = self._null_conditions(conditions, scale, null_encoder_hidden_states)
        count = _count(batch, conditions)
        check_image_count(count)
        shape = check_size(settings, self.session.interface, size)
        return _Request(
            count=count,
            shape=shape,
            conditions=conditions,
            null=null,
            scale=scale,
            rescale=check_number("guidance_rescale", guidance_rescale, 0.0, 1.0),
            sampling=sampling,
            seed=check_seed(seed),
        )

    def _groups(
        self, request: _Request, progress: Progress | None, cancel: Cancel | None
    ) -> Iterator[tuple[slice, Array]]:
        """Images in groups that the engine takes at once, each with its rows."""
        (least, most), levels = batch_bounds(self.session, SAMPLE), request.sampling.levels
        rows = rows_at_once(math.prod(request.shape), least, most, runs=1 if request.null is None else 2)
        groups = list(chunks(request.count, rows))
        noise = NoiseStream(request.seed, request.count * math.prod(request.shape))
        counter = StepCounter(len(groups) * levels.steps, progress, cancel)
        for group in groups:
            denoise = Denoiser(
                self.session,
                self.settings.schedule,
                levels,
                count=group.stop - group.start,
                conditions=_rows(request.conditions, group),
                null=None if request.null is None else _rows(request.null, group),
                scale=request.scale,
                rescale=request.rescale,
                most=most,
            )
            draws = itertools.count()
            fresh = partial(_next_draw, noise, draws)
            x = fresh((group.stop - group.start, *request.shape))
            run = sample(request.sampling.sampler, denoise, x, levels, fresh, request.sampling.config)
            yield group, run_steps(run, levels.steps, counter)

    def _conditions(self, labels: Sequence[int] | None, context: Array | None) -> dict[str, Array]:
        conditions: dict[str, Array] = {}
        if CLASS_LABELS in self._names:
            conditions[CLASS_LABELS] = check_labels(labels, self.settings.num_classes)
        elif labels is not None:
            raise InputError("class labels were given", hint="this model takes none")
        if CONTEXT in self._names:
            conditions[CONTEXT] = _check_context(CONTEXT, context)
        elif context is not None:
            raise InputError(f"{CONTEXT} was given", hint="this model takes none")
        return conditions

    def _null_conditions(
        self, conditions: dict[str, Array], scale: float, null_context: Array | None
    ) -> dict[str, Array] | None:
        if null_context is not None and CONTEXT not in conditions:
            raise InputError(f"{NULL_CONTEXT} was given", hint="this model takes none")
        if scale == 1.0:
            return None
        null: dict[str, Array] = {}
        if CLASS_LABELS in conditions:
            if self.settings.null_class is None:
                raise InputError(
                    f"guidance_scale is {scale:g}", hint="this model was trained without a null class: use 1"
                )
            null[CLASS_LABELS] = np.full_like(conditions[CLASS_LABELS], self.settings.null_class)
        if CONTEXT in conditions:
            if null_context is None:
                raise InputError(f"guidance_scale is {scale:g}", hint=f"give {NULL_CONTEXT}, or use 1")
            null[CONTEXT] = _match_context(null_context, conditions[CONTEXT].shape)
        if not null:
            raise InputError(f"guidance_scale is {scale:g}", hint="this model has no condition to be guided by: use 1")
        return null


def _next_draw(noise: NoiseStream, draws: Iterator[int], shape: tuple[int, ...]) -> Array:
    return noise.take(next(draws), shape)


def _rows(conditions: Mapping[str, Array], rows: slice) -> dict[str, Array]:
    return {name: values[rows] for name, values in conditions.items()}


def _count(batch: int | None, conditions: dict[str, Array]) -> int:
    """The number of images that `batch` and the conditions agree on; 1 if nothing says."""
    counts = {name: len(values) for name, values in conditions.items()}
    if batch is not None:
        counts["batch"] = check_count("batch", batch)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name}: {shown(n)}" for name, n in counts.items())
        raise InputError(f"the numbers of images differ: {told}", hint="give as many of each as images")
    return next(iter(counts.values()), 1)


def _check_context(name: str, context: Array | None) -> Array:
    if context is None:
        raise InputError(f"{name} is missing", hint="this model needs [N, T, X] float32")
    if not isinstance(context, np.ndarray) or context.ndim != 3 or context.dtype != np.float32 or not len(context):
        found = f"{context.dtype} {list(context.shape)}" if isinstance(context, np.ndarray) else type(context).__name__
        raise InputError(f"{name} is {found}", hint="must be a float32 array [N, T, X]")
    return context


def _match_context(null_context: Array, shape: tuple[int, ...]) -> Array:
    """The null context, for every image."""
    null = _check_context(NULL_CONTEXT, null_context)
    if null.shape[1:] != shape[1:] or len(null) not in (1, shape[0]):
        raise InputError(
            f"{NULL_CONTEXT} has shape {list(null.shape)}, {CONTEXT} has {list(shape)}",
            hint="must be equal, or 1 in front",
        )
    return np.broadcast_to(null, shape)
