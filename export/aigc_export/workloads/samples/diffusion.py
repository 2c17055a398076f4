"""Points of a diffusion model's own sampling trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data.chunks import Chunk, make_chunks
from aigc_calibration.data.draws import stream
from aigc_calibration.data.expected import ArrayCheck, expected_arrays
from aigc_calibration.data.protocol import check_samples
from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import OnnxFunction
from aigc_calibration.subject import Subject
from aigc_export.workloads.samples.trajectory import ddim_trajectory
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.denoiser import CLASS_LABELS, CONTEXT, NULL_CONTEXT
from aigc_runtime.pipelines.settings import DiffusionSettings

if TYPE_CHECKING:
    pass

__all__ = ["DiffusionData"]

STREAM = 2
"""Of random numbers; see `draws.stream`."""
STEPS = 50
Halves = tuple[list[dict[str, Array]], list[dict[str, Array]]]
MIN_GUIDANCE = 1.5
"""Where a model can be guided, its trajectories are guided at least so much."""


@dataclass(frozen=True, kw_only=True)
class DiffusionData:
    """Points of the model's own DDIM trajectories, spread over steps, classes or prompts, and guidance branches.

    A point is a row of what the model is fed at one step of a trajectory, with its condition or without. The numbers
    of points of any two steps differ by at most one; so do those of any two classes, of both branches, and of any two
    cells of steps x classes x branches. Prompts take the place of classes; a model that has both takes its prompts in
    turn.

    The schedule is cut into as many stretches as a trajectory has steps, and every step visits one timestep of its
    stretch: up to eight trajectories the same one, the next ones others. So every timestep can occur, and all do with
    enough samples.

    Attributes:
        subject: the UNet.
        settings: of its pipeline.
        samples: points.
        steps: of the trajectories; None takes 50, or as many as the schedule has.
        batch: points at a time.
        seed: of noise and choice; no pipeline's seed gives the same noise (`draws.stream`).
        context: [N, T, X] float32, prompts' embeddings for a model with cross-attention.
        null_context: [1, T, X] float32, the embedding of no prompt, which a guided model is fed, too; None takes zeros.
    """

    subject: Subject
    settings: DiffusionSettings
    samples: int = 256
    steps: int | None = None
    batch: int = 16
    seed: int = 0
    context: Array | None = None
    null_context: Array | None = None

    def __post_init__(self) -> None:
        check_samples(self.samples, self.batch)
        total = self.settings.schedule.num_train_timesteps
        if self.steps is not None and not 1 <= self.steps <= total:
            raise CalibrationError(f"steps is {self.steps}", hint=f"must be from 1 to {total}")
        if self.subject.interface.input(CONTEXT) is not None:
            self._check_context()
        elif self.context is not None or self.null_context is not None:
            raise CalibrationError(f"the model takes no {CONTEXT}", hint=expected_arrays(self.subject))

    def _check_context(self) -> None:
        expected = expected_arrays(self.subject, (CONTEXT,))
        if self.context is None:
            raise CalibrationError(
                f"the model takes {CONTEXT}, which follow from prompts",
                hint=f"give those of real prompts as calibration data, in an .npz: {expected}",
            )
        check = ArrayCheck(self.subject, (CONTEXT,))
        check.shapes({CONTEXT: self.context})
        check.add({CONTEXT: self.context})
        check.finish()
        if self.null_context is None:
            return
        if self.null_context.shape != (1, *self.context.shape[1:]):
            raise CalibrationError(
                f"{NULL_CONTEXT} has shape {list(self.null_context.shape)}",
                hint=f"expected {[1, *self.context.shape[1:]]}, one row as long as a prompt's; beside it, {expected}",
            )
        ArrayCheck(self.subject, (CONTEXT,), named=NULL_CONTEXT).add({CONTEXT: self.null_context})

    @property
    def rows(self) -> int:
        """Number of rows: one for every point."""
        return self.samples

    def batches(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        """Yield the feeds of the graph."""
        points: list[dict[str, Array]] = []
        for point in self._points(run):
            points.append(point)
            if len(points) == self.batch:
                yield _stacked(points)
                points = []
        if points:
            yield _stacked(points)

    def _points(self, run: OnnxFunction) -> Iterator[dict[str, Array]]:
        settings = self.settings
        rng = stream(self.seed, STREAM)
        total, guided = settings.schedule.num_train_timesteps, self._guided(settings)
        steps = self.steps or min(STEPS, total)
        conditions = settings.num_classes or (1 if self.context is None else len(self.context))
        scale = max(settings.default_guidance_scale, MIN_GUIDANCE) if guided else 1.0
        waiting: Halves = ([], [])
        for chunk in make_chunks(self.samples, steps, conditions, 2 if guided else 1, rng):
            x = rng.standard_normal((len(chunk.conditions), *settings.sample_shape), dtype=np.float32)
            branches = self._branches(settings, chunk, guided)
            taken: Halves = ([], [])
            times = chunk.timesteps(steps, total)
            for step, fed in enumerate(ddim_trajectory(run, settings.schedule, x, times, branches, scale), start=1):
                for point in chunk.points.get(steps - step, ()):
                    feeds = fed[point.branch]
                    taken[point.half].append({name: value[point.row].copy() for name, value in feeds.items()})
            for one, half in zip(taken, waiting, strict=True):
                half += [one[i] for i in rng.permutation(len(one))]
            # Samples in even and in odd places are the halves; what has no partner yet waits for the next chunk.
            ready = min(map(len, waiting))
            for i in range(ready):
                yield from (half[i] for half in waiting)
            waiting = (waiting[0][ready:], waiting[1][ready:])
        yield from waiting[0]

    def _guided(self, settings: DiffusionSettings) -> bool:
        if settings.null_class is not None:
            return True
        return self.context is not None and (self.null_context is not None or settings.default_guidance_scale != 1.0)

    def _branches(self, settings: DiffusionSettings, chunk: Chunk, guided: bool) -> list[dict[str, Array]]:
        """Make the conditions of a chunk's rows, and the null conditions of its unconditional branch."""
        given: dict[str, Array] = {}
        null: dict[str, Array] = {}
        if settings.num_classes is not None:
            given[CLASS_LABELS] = chunk.conditions
            null[CLASS_LABELS] = np.full_like(chunk.conditions, settings.null_class or 0)
        if self.context is not None:
            turn = chunk.conditions if settings.num_classes is None else chunk.first + np.arange(len(chunk.conditions))
            given[CONTEXT] = self.context[turn % len(self.context)]
            nothing = np.zeros_like(self.context[:1]) if self.null_context is None else self.null_context
            null[CONTEXT] = np.repeat(nothing, len(turn), axis=0)
        return [given, null] if guided else [given]


def _stacked(points: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([p[name] for p in points]) for name in points[0]}
