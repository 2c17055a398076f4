"""Image generation by a diffusion model.

Shapes: N images, C channels, H height, W width.

All noise comes from one generator: first x_T, then what the sampler asks for, step by step. The same seed gives the
same noise as `torch.randn(..., generator=torch.Generator().manual_seed(seed))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from aigc_runtime.errors import CancelledError, EngineError, InputError, UnknownNameError
from aigc_runtime.manifest import DiffusionSettings
from aigc_runtime.pipelines.labels import (
    batch_limit,
    check_count,
    check_labels,
    check_number,
    chunks,
    require_tensors,
)
from aigc_runtime.rng import TorchGenerator
from aigc_runtime.samplers import SAMPLERS, Prediction, predict
from aigc_runtime.schedules import Levels, make_levels
from aigc_runtime.session import Session
from aigc_runtime.tensors import Array

__all__ = ["DiffusionPipeline"]

Progress = Callable[[int, int], None]
Cancel = Callable[[], bool]

MAX_GUIDANCE_SCALE = 1e4
"""Far beyond any use; a larger one is a mistake that would only overflow."""

_CONDITIONS = {"class_labels": (None,), "encoder_hidden_states": (None, None, None)}


class DiffusionPipeline:
    """Generates images with a diffusion UNet.

    Args:
        session: inputs `sample` [N, C, H, W], `timestep` [N] and, where the model takes them, `class_labels` [N] and
            `encoder_hidden_states` [N, T, X]; output `model_output` [N, C, H, W].
        settings: schedule, shape and defaults.

    Raises:
        ConfigError: the session has other inputs or outputs, or other sizes.
    """

    def __init__(self, session: Session, settings: DiffusionSettings) -> None:
        self._names = {spec.name for spec in session.inputs}
        image = (None, *settings.sample_shape)
        taken = {name: sizes for name, sizes in _CONDITIONS.items() if name in self._names}
        require_tensors(
            session, inputs={"sample": image, "timestep": (None,), **taken}, outputs={"model_output": image}
        )
        self.session = session
        self.settings = settings

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def __enter__(self) -> DiffusionPipeline:
        """The pipeline, its session closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def generate(
        self,
        class_labels: Sequence[int] | None = None,
        *,
        batch: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float = 0.0,
        guidance_scale: float | None = None,
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
            steps: sampling steps; None takes the bundle's default, as for the next two.
            sampler: `ddim`, `ddpm`, `dpmpp_2m` or `euler`.
            eta: share of fresh noise in DDIM, 0 to 1; the other samplers take none.
            guidance_scale: w of classifier-free guidance, eps = eps_null + w (eps_class - eps_null) (Ho & Salimans
                2022, eq. 6, with w = 1 + their w); 1 means none.
            seed: of all noise.
            size: (H, W), where the engine takes several.
            encoder_hidden_states: [N, T, X] float32, for a model with cross-attention.
            null_encoder_hidden_states: [N, T, X] or [1, T, X], the same for "no condition", needed for guidance.
            progress: called as progress(step, steps) after every step.
            cancel: asked before every step.

        Returns:
            [N, C, H, W] float32 in [-1, 1].

        Raises:
            InputError: a bad argument; says which and what is allowed.
            CancelledError: `cancel` said so.
            EngineError: the engine failed, or gave NaN.
        """
        settings = self.settings
        name = settings.default_sampler if sampler is None else sampler
        if not isinstance(name, str) or name not in SAMPLERS:
            raise UnknownNameError("sampler", str(name), SAMPLERS)
        eta = check_number("eta", eta, 0.0, 1.0)
        if eta and name != "ddim":
            raise InputError(f"eta is {eta:g} with sampler {name!r}", hint="only 'ddim' takes an eta; leave it out")
        scale = settings.default_guidance_scale if guidance_scale is None else guidance_scale
        scale = check_number("guidance_scale", scale, 0.0, MAX_GUIDANCE_SCALE)
        conditions = self._conditions(class_labels, encoder_hidden_states)
        null = self._null_conditions(conditions, scale, null_encoder_hidden_states)
        count = _count(batch, conditions)
        levels = make_levels(settings.schedule, settings.default_steps if steps is None else steps)
        generator = TorchGenerator(seed)
        x = generator.randn((count, *self._shape(size)))
        denoise = _Denoiser(self.session, settings, levels, count, conditions, null, scale)
        total = len(levels.timesteps)
        run = SAMPLERS[name](denoise, x, levels, generator.randn, eta)
        for step in range(total):
            if cancel is not None and cancel():
                raise CancelledError(f"cancelled after {step} of {total} steps")
            x = next(run)
            if progress is not None:
                progress(step + 1, total)
        result: Array = np.clip(x, -1.0, 1.0)
        return result

    def _shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        c, h, w = self.settings.sample_shape
        if size is None:
            return c, h, w
        if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
            raise InputError(f"size is {size!r}", hint="must be (height, width)")
        height, width = check_count("height", size[0]), check_count("width", size[1])
        if (height, width) == (h, w):
            return c, h, w
        dims = self.session.dims
        if "height" not in dims or "width" not in dims:
            raise InputError(f"size is {height} x {width}", hint=f"this engine makes images of {h} x {w} only")
        for name, n in (("height", height), ("width", width)):
            dim = dims[name]
            if n < dim.min or n % dim.multiple_of or (dim.max is not None and n > dim.max):
                bound = f"at least {dim.min}" if dim.max is None else f"{dim.min} to {dim.max}"
                raise InputError(f"{name} is {n}", hint=f"must be {bound}, a multiple of {dim.multiple_of}")
        return c, height, width

    def _conditions(self, labels: Sequence[int] | None, context: Array | None) -> dict[str, Array]:
        conditions: dict[str, Array] = {}
        if "class_labels" in self._names:
            conditions["class_labels"] = check_labels(labels, self.settings.num_classes)
        elif labels is not None:
            raise InputError("class labels were given", hint="this model takes none")
        if "encoder_hidden_states" in self._names:
            conditions["encoder_hidden_states"] = _check_context("encoder_hidden_states", context)
        elif context is not None:
            raise InputError("encoder_hidden_states was given", hint="this model takes none")
        return conditions

    def _null_conditions(
        self, conditions: dict[str, Array], scale: float, null_context: Array | None
    ) -> dict[str, Array] | None:
        if null_context is not None and "encoder_hidden_states" not in conditions:
            raise InputError("null_encoder_hidden_states was given", hint="this model takes none")
        if scale == 1.0:
            return None
        null: dict[str, Array] = {}
        if "class_labels" in conditions:
            if self.settings.null_class is None:
                raise InputError(
                    f"guidance_scale is {scale:g}", hint="this model was trained without a null class: use 1"
                )
            null["class_labels"] = np.full_like(conditions["class_labels"], self.settings.null_class)
        if "encoder_hidden_states" in conditions:
            if null_context is None:
                raise InputError(f"guidance_scale is {scale:g}", hint="give null_encoder_hidden_states, or use 1")
            null["encoder_hidden_states"] = _match_context(null_context, conditions["encoder_hidden_states"].shape)
        if not null:
            raise InputError(f"guidance_scale is {scale:g}", hint="this model has no condition to be guided by: use 1")
        return null


class _Denoiser:
    """The model as the samplers see it: x_t and a step in, x_0 and epsilon out; guidance happens here."""

    def __init__(
        self,
        session: Session,
        settings: DiffusionSettings,
        levels: Levels,
        count: int,
        conditions: dict[str, Array],
        null: dict[str, Array] | None,
        scale: float,
    ) -> None:
        self.session, self.config, self.levels = session, settings.schedule, levels
        self.scale = np.float32(scale)
        most = batch_limit(session, "sample")
        # Both branches of the guidance in one run where the engine's batch allows it: half the calls.
        self.joined = null is not None and (most is None or 2 * count <= most)
        if null is None:
            self.plans = [_plan(count, most, conditions)]
        elif self.joined:
            both = {name: np.concatenate([values, null[name]]) for name, values in conditions.items()}
            self.plans = [_plan(2 * count, most, both)]
        else:
            self.plans = [_plan(count, most, conditions), _plan(count, most, null)]

    def __call__(self, x: Array, step: int) -> Prediction:
        t = np.float32(self.levels.timesteps[step])
        sample = np.concatenate([x, x]) if self.joined else x
        outputs = [self._run(sample, t, plan) for plan in self.plans]
        if self.joined:
            outputs = [outputs[0][: len(x)], outputs[0][len(x) :]]
        # What overflows here is reported below, as an error instead of a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            out = outputs[0] if len(outputs) == 1 else outputs[1] + self.scale * (outputs[0] - outputs[1])
            total = out.sum()
        if out.shape != x.shape:
            raise EngineError(
                f"the engine gave shape {out.shape} for a sample of shape {x.shape}",
                hint="the bundle is inconsistent: export it again",
            )
        # A sum is NaN or infinite if any element is: one pass instead of two.
        if not math.isfinite(total) and not np.isfinite(out).all():
            raise EngineError(
                f"the engine gave NaN or infinity at step {step + 1}", hint="run `aigc-run verify` on the bundle"
            )
        return predict(out, x, float(self.levels.alpha[step]), float(self.levels.sigma[step]), self.config)

    def _run(self, x: Array, t: np.float32, plan: list[tuple[slice, dict[str, Array]]]) -> Array:
        if len(plan) == 1:
            return self._feed(x, t, plan[0][1])
        return np.concatenate([self._feed(np.ascontiguousarray(x[rows]), t, feeds) for rows, feeds in plan])

    def _feed(self, x: Array, t: np.float32, feeds: dict[str, Array]) -> Array:
        feeds["sample"] = x
        feeds["timestep"].fill(t)
        return self.session.run(feeds)["model_output"]


def _plan(count: int, most: int | None, conditions: dict[str, Array]) -> list[tuple[slice, dict[str, Array]]]:
    """The runs that cover `count` rows: which rows, and the feeds that stay the same at every step."""
    return [
        (
            rows,
            {
                "timestep": np.empty(rows.stop - rows.start, dtype=np.float32),
                **{name: np.ascontiguousarray(values[rows]) for name, values in conditions.items()},
            },
        )
        for rows in chunks(count, most)
    ]


def _count(batch: int | None, conditions: dict[str, Array]) -> int:
    """The number of images that `batch` and the conditions agree on; 1 if nothing says."""
    counts = {name: len(values) for name, values in conditions.items()}
    if batch is not None:
        counts["batch"] = check_count("batch", batch)
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name}: {n}" for name, n in counts.items())
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
    null = _check_context("null_encoder_hidden_states", null_context)
    if null.shape[1:] != shape[1:] or len(null) not in (1, shape[0]):
        raise InputError(
            f"null_encoder_hidden_states has shape {list(null.shape)}, encoder_hidden_states has {list(shape)}",
            hint="must be equal, or 1 in front",
        )
    return np.ascontiguousarray(np.broadcast_to(null, shape))
