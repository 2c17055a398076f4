"""The model as the samplers see it, guidance included.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import EngineError
from aigc_runtime.generation.samplers.prediction import Prediction, predict
from aigc_runtime.generation.schedules import Levels, ScheduleConfig

__all__ = [
    "CLASS_LABELS",
    "CONTEXT",
    "CONTEXT_TOKENS",
    "MODEL_OUTPUT",
    "NULL_CONTEXT",
    "SAMPLE",
    "TIMESTEP",
    "Denoiser",
]

SAMPLE = "sample"
TIMESTEP = "timestep"
CLASS_LABELS = "class_labels"
CONTEXT = "encoder_hidden_states"
MODEL_OUTPUT = "model_output"
"""The tensors of a diffusion model, with diffusers' names."""

CONTEXT_TOKENS = 77
"""Tokens of a context where nothing else is known: as CLIP has them."""

NULL_CONTEXT = f"null_{CONTEXT}"
"""The argument of `generate` that holds the context of "no condition"."""


class Denoiser:
    """x_t and a step in, x_0 and epsilon out.

    Args:
        session: of a diffusion model.
        schedule: what it was trained with.
        levels: of this run.
        conditions: of the N images, by input name.
        null: the same for "no condition", for guidance; None for none.
        scale: w of classifier-free guidance, eps = eps_null + w (eps_cond - eps_null).
        rescale: phi of Lin et al. 2023, eq. 16: how far its deviation is brought back to that of eps_cond.
        most: rows that the session takes in one run, if it says.
        beside: [N, C', H, W] that the model takes as further channels behind those of the samples; None for none.
    """

    def __init__(
        self,
        session: Session,
        schedule: ScheduleConfig,
        levels: Levels,
        *,
        count: int,
        conditions: Mapping[str, Array],
        null: Mapping[str, Array] | None,
        scale: float,
        rescale: float,
        most: int | None,
        beside: Array | None = None,
    ) -> None:
        self._session, self._schedule, self._levels = session, schedule, levels
        self._beside = beside
        self._scale, self._rescale = np.float32(scale), np.float32(rescale)
        # Both branches of the guidance in one run where the engine's batch allows it: half the calls.
        self._joined = null is not None and (most is None or 2 * count <= most)
        if null is None:
            branches = [conditions]
        elif self._joined:
            branches = [{name: np.concatenate([values, null[name]]) for name, values in conditions.items()}]
        else:
            branches = [conditions, null]
        rows = 2 * count if self._joined else count
        self._feeds: list[dict[str, Array]] = [
            {TIMESTEP: np.empty(rows, dtype=np.float32), **{k: np.ascontiguousarray(v) for k, v in branch.items()}}
            for branch in branches
        ]

    def __call__(self, x: Array, step: int) -> Prediction:
        """What the model says about the samples [N, C, H, W] at a step of the run.

        Raises:
            EngineError: the engine failed, or gave another shape, NaN or infinity.
        """
        t = np.float32(self._levels.timesteps[step])
        given = x if self._beside is None else np.concatenate([x, self._beside], axis=1)
        sample = np.concatenate([given, given]) if self._joined else given
        outputs = [self._run(sample, t, feeds) for feeds in self._feeds]
        channels = x.shape[1] * (2 if self._schedule.learns_variance else 1)
        wanted = (sample.shape[0], channels, *x.shape[2:])
        if outputs[0].shape != wanted:
            raise EngineError(
                f"the engine gave shape {outputs[0].shape} for a sample of shape {sample.shape}, expected {wanted}",
                hint="the engine and the schedule do not belong together",
            )
        if self._joined:
            outputs = [outputs[0][: len(x)], outputs[0][len(x) :]]
        # What overflows here is reported below, as an error instead of a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            out = outputs[0] if len(outputs) == 1 else self._guided(outputs[0], outputs[1], x.shape[1])
            total = out.sum()
        # A sum is NaN or infinite if any element is: one pass instead of two.
        if not math.isfinite(total) and not np.isfinite(out).all():
            raise EngineError(
                f"the model gave NaN or infinity at step {step + 1}", hint="run `aigc-run verify` on the bundle"
            )
        return predict(out, x, float(self._levels.alpha[step]), float(self._levels.sigma[step]), self._schedule)

    def _guided(self, given: Array, null: Array, channels: int) -> Array:
        """Guidance moves the mean alone: a learned variance stays that of the condition, as in diffusers and DiT."""
        mean = null[:, :channels] + self._scale * (given[:, :channels] - null[:, :channels])
        if self._rescale:
            axes = tuple(range(1, mean.ndim))
            wanted, found = (array.std(axes, keepdims=True) for array in (given[:, :channels], mean))
            # A mean without any deviation has nothing to be scaled by.
            factor = np.divide(wanted, found, out=np.ones_like(found), where=found > 0)
            mean = mean * (self._rescale * factor + (1 - self._rescale))
        return mean if given.shape[1] == channels else np.concatenate([mean, given[:, channels:]], axis=1)

    def _run(self, x: Array, t: np.float32, feeds: dict[str, Array]) -> Array:
        feeds[SAMPLE] = x
        feeds[TIMESTEP].fill(t)
        return self._session.run(feeds)[MODEL_OUTPUT]
