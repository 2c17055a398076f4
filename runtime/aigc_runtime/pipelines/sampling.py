"""What pipelines that sample by diffusion share: which sampler runs how, and the loop over its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import CancelledError, EngineError, InputError, UnknownNameError
from aigc_runtime.generation.samplers import SAMPLERS, SamplerConfig
from aigc_runtime.generation.schedules import Levels, ScheduleConfig
from aigc_runtime.io.printable import shown
from aigc_runtime.pipelines.arguments import check_number

__all__ = ["Cancel", "Progress", "SampledSettings", "Sampling", "StepCounter", "plan_sampling", "run_steps"]

Progress = Callable[[int, int], None]
"""Called as progress(step, steps) after every step."""
Cancel = Callable[[], bool]
"""Asked before every step."""


class SampledSettings(Protocol):
    """Settings of a pipeline that samples."""

    @property
    def schedule(self) -> ScheduleConfig:
        """That the model was trained with."""
        ...

    @property
    def default_sampler(self) -> str:
        """A key of `SAMPLERS`."""
        ...

    @property
    def sampler_config(self) -> SamplerConfig:
        """How the default sampler runs."""
        ...

    @property
    def default_steps(self) -> int:
        """Where a request does not say it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a request is sampled.

    Attributes:
        sampler: its name.
        config: how it runs.
        levels: that it visits.
    """

    sampler: str
    config: SamplerConfig
    levels: Levels


def plan_sampling(
    settings: SampledSettings,
    *,
    steps: int | None,
    sampler: str | None,
    eta: float | None,
    skip: Callable[[int], int] = lambda _steps: 0,
) -> Sampling:
    """Choose how a request is sampled; None takes what the settings say.

    Args:
        settings: of the pipeline.
        steps: sampling steps.
        sampler: one of `SAMPLERS`. The default one runs as its `sampler_config` says, others as the papers do.
        eta: share of fresh noise in DDIM, 0 to 1.
        skip: steps -> how many of them are left out at the start.

    Raises:
        InputError: a number that the sampler does not take.
        UnknownNameError: an unknown sampler.
    """
    name = settings.default_sampler if sampler is None else sampler
    if not isinstance(name, str) or name not in SAMPLERS:
        raise UnknownNameError("sampler", name if isinstance(name, str) else shown(name), SAMPLERS)
    config = settings.sampler_config if name == settings.default_sampler else SamplerConfig()
    if eta is not None:
        config = _with_eta(config, name, check_number("eta", eta, 0.0, 1.0))
    count = settings.default_steps if steps is None else steps
    SAMPLERS[name].levels(settings.schedule, config, count)  # judges the number itself
    levels = SAMPLERS[name].late_levels(settings.schedule, config, count, skip(count))
    return Sampling(sampler=name, config=config, levels=levels)


def _with_eta(config: SamplerConfig, name: str, eta: float) -> SamplerConfig:
    if eta and "eta" not in SAMPLERS[name].options:
        takers = ", ".join(repr(other) for other, sampler in SAMPLERS.items() if "eta" in sampler.options)
        raise InputError(f"eta is {eta:g} with sampler {name!r}", hint=f"only {takers} takes an eta; leave it out")
    return replace(config, eta=eta)


class StepCounter:
    """Counts the steps of all groups of a request, and asks between them whether to go on.

    Args:
        total: steps of the request.
        progress: called after every step.
        cancel: asked before every step.
    """

    def __init__(self, total: int, progress: Progress | None, cancel: Cancel | None) -> None:
        self.total, self.done = total, 0
        self._progress, self._cancel = progress, cancel

    def before(self) -> None:
        """Ask whether to go on.

        Raises:
            CancelledError: no.
        """
        if self._cancel is not None and self._cancel():
            raise CancelledError(f"cancelled after {self.done} of {self.total} steps")

    def after(self) -> None:
        """Count a step."""
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, self.total)


def run_steps(
    run: Iterator[Array], steps: int, counter: StepCounter, seen: Callable[[Array], None] | None = None
) -> Array:
    """Go through the steps of a sampler, and give its last sample.

    Args:
        run: of the sampler.
        steps: that it has.
        counter: of the request.
        seen: called with the sample after every step.

    Raises:
        CancelledError: the request was cancelled.
        EngineError: the sample holds NaN or infinity.
    """
    for _ in range(steps):
        counter.before()
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, or at the next step
            x = next(run)
        if seen is not None:
            seen(x)
        counter.after()
    if not np.isfinite(x).all():
        raise EngineError(
            f"the sample holds NaN or infinity after step {steps}", hint="run `aigc-run verify` on the bundle"
        )
    return x
