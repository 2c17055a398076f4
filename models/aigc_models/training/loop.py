"""The training loop: seeded, clipped, with a moving average of the weights, resumable bit for bit.

A `Task` says what one step does; the loop owns everything around it.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from aigc_models.families.layers import require_positive
from aigc_models.training.curve import Curve
from aigc_models.training.every import Clock, Every
from aigc_models.training.state import SAMPLES_PREFIX, RunState, check_output, unfinished
from aigc_runtime.errors import AigcError, ConfigError

__all__ = [
    "LoopConfig",
    "OnStep",
    "Stop",
    "Task",
    "TrainingError",
    "TrainingInterruptedError",
    "Watch",
    "learning_rate",
    "train",
    "what_is_left",
]

_LOG = logging.getLogger(__name__)

EVALUATIONS = 20
"""Times that the loss on held-out data is measured in a run."""

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called as on_step(step, steps, losses)."""
Sampler = Callable[[nn.Module], dict[str, bytes]]
"""A copy of the module -> suffix of a file's name -> its content."""


class TrainingError(ConfigError):
    """The training diverged."""


class TrainingInterruptedError(AigcError):
    """A signal ended the training; the exit code is 128 and the signal's number."""

    def __init__(self, message: str, *, hint: str, signum: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signum


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of the loop.

    Attributes:
        steps: updates in all.
        batch_size: rows per step.
        learning_rate: peak.
        final_rate: share of the peak at the end of the cosine.
        warmup: steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        ema: decay of the moving average of the weights; 0 keeps none.
        seed: of weights, data order and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    final_rate: float = 0.02
    warmup: int = 50
    max_grad_norm: float = 1.0
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("LoopConfig", steps=self.steps, batch_size=self.batch_size)
        if not 0 <= self.ema < 1 or not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"LoopConfig: ema={self.ema}, learning_rate={self.learning_rate}",
                hint="need 0 <= ema < 1 and a finite learning_rate > 0",
            )


class Task(Protocol):
    """What is being trained.

    Attributes:
        model: the module whose (averaged) weights are the result.
        optimizers: by name; each one's learning rate is scheduled relative to its own `lr`.
        extra: further modules to be saved for resuming, such as a discriminator.
    """

    model: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    extra: dict[str, nn.Module]

    def step(self, rng: torch.Generator) -> dict[str, float]:
        """One update of every optimizer; returns the losses."""
        ...

    def held_out_loss(self, model: nn.Module) -> float | None:
        """The loss of a module in evaluation mode on data that training never sees; None where there is no such.

        Draws nothing from the generators of the training.
        """
        ...


class Stop(Protocol):
    """Says after every step whether the run ends there."""

    @property
    def signum(self) -> int | None:
        """The signal that asked for it."""
        ...

    def listening(self) -> AbstractContextManager[object]:
        """While in it, a signal is kept for the end of the step; outside of it, it acts at once."""
        ...


@dataclass(kw_only=True)
class Watch:
    """Callbacks and intervals beside the steps; none changes the weights.

    Attributes:
        save_every: how often the state is saved.
        sample_every: how often samples are drawn; None never.
        sample: draws them.
        on_step: called after every step.
        stop: asked after every step.
        notify: called with a sentence for each change of the machine since the run was interrupted.
    """

    save_every: Every = field(default_factory=lambda: Every(seconds=300))
    sample_every: Every | None = None
    sample: Sampler | None = None
    on_step: OnStep | None = None
    stop: Stop | None = None
    notify: Callable[[str], None] = lambda _: None


def learning_rate(step: int, config: LoopConfig) -> float:
    """Share of the peak at `step`: linear warm-up, then half a cosine (Loshchilov & Hutter 2017, eq. 5).

    >>> learning_rate(0, LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup=10))
    0.1
    >>> learning_rate(99, LoopConfig(steps=100, batch_size=1, learning_rate=1.0, warmup=10, final_rate=0.5)) < 0.51
    True
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = (1 + math.cos(math.pi * step / config.steps)) / 2
    return warm * (config.final_rate + (1 - config.final_rate) * cosine)


def train(
    task: Task,
    config: LoopConfig,
    *,
    record: Mapping[str, Any],
    output: Path,
    resume: bool,
    run: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    kept: Mapping[str, bytes] | None = None,
) -> RunState:
    """Run the loop to its end and leave its state in `output`: what is measured afterwards can be interrupted, too.

    Args:
        task: what is trained.
        config: how.
        record: written as the checkpoint's config.json.
        output: checkpoint folder; with `resume`, where an interrupted run of the same settings left its state.
        resume: go on from that state.
        run: what else makes two runs the same, such as a digest of the data; a resumed one must agree.
        watch: what goes on beside the steps.
        kept: file name -> content of what the checkpoint keeps of the data, finished or not.

    Returns:
        The state; `result` is the model with its averaged weights (its own, where no average is kept), in evaluation
        mode.

    Raises:
        TrainingError: a loss is NaN or infinite.
        TrainingInterruptedError: `watch.stop` asked for it; the state is saved.
        CheckpointError: nothing to resume from, other settings, or an unfinished run in `output` without `resume`.
    """
    check_output(output, resume=resume)
    watch, run = watch or Watch(), run or {}
    average = copy.deepcopy(task.model).requires_grad_(False) if config.ema else None
    rng = torch.Generator().manual_seed(config.seed)
    state = RunState(task=task, average=average, rng=rng, curve=Curve(config.steps), kept=dict(kept or {}))
    peaks = {name: [g["lr"] for g in o.param_groups] for name, o in task.optimizers.items()}
    if resume:
        state.restore(output, config, record, run)
        _LOG.info("goes on from step %d in %s", state.step, output)
        for note in state.notes:
            watch.notify(note)
    task.model.train()
    with nullcontext() if watch.stop is None else watch.stop.listening():
        _steps(state, config, peaks, watch, output, lambda: state.save(output, config, record, run))
    state.result.eval()
    return state


def _steps(
    state: RunState,
    config: LoopConfig,
    peaks: Mapping[str, list[float]],
    watch: Watch,
    output: Path,
    save: Callable[[], None],
) -> None:
    """Run all steps that are left."""
    task, saving, sampling = state.task, Clock(watch.save_every), Clock(watch.sample_every)
    clock = _Stopwatch(state)
    while state.step < config.steps:
        share = learning_rate(state.step, config)
        for name, optimizer in task.optimizers.items():
            for group, peak in zip(optimizer.param_groups, peaks[name], strict=True):
                group["lr"] = peak * share
        losses = task.step(state.rng)
        if not all(math.isfinite(v) for v in losses.values()):
            raise _diverged(losses, state.step + 1, output)
        if state.average is not None:
            _update_average(state.average, task.model, config.ema, state.step)
        state.step += 1
        is_last = state.step == config.steps
        if state.step % max(1, config.steps // EVALUATIONS) == 0 or is_last:
            losses |= _held_out(task, state.result)
        if "held_out_loss" in losses or is_last:
            _LOG.info("step %d of %d: %s", state.step, config.steps, losses)
        clock.update()
        state.curve.add(state.step, losses, learning_rate=config.learning_rate * share, seconds=state.seconds)
        if watch.on_step is not None:
            watch.on_step(state.step, config.steps, losses)
        if watch.sample is not None and watch.sample_every is not None and (is_last or sampling.is_due(state.step)):
            drawn = watch.sample(copy.deepcopy(state.result).cpu().eval())
            state.samples |= {f"{SAMPLES_PREFIX}{state.step:07d}{suffix}": data for suffix, data in drawn.items()}
            sampling.restart()
            clock.update()
            save()
            saving.restart()
        elif is_last or saving.is_due(state.step):
            save()
            saving.restart()
        if watch.stop is not None and (signum := watch.stop.signum) is not None:
            save()
            raise TrainingInterruptedError(
                f"interrupted at step {state.step:,} of {config.steps:,}: the state is in {str(output)!r}",
                hint="go on with the same command and --resume",
                signum=signum,
            )


class _Stopwatch:
    """Adds the time that passes to a state, whose earlier parts took some already."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.before = (state.seconds, state.cpu_seconds)
        self.started = (time.perf_counter(), time.process_time())

    def update(self) -> None:
        self.state.seconds = self.before[0] + time.perf_counter() - self.started[0]
        self.state.cpu_seconds = self.before[1] + time.process_time() - self.started[1]


def _held_out(task: Task, model: nn.Module) -> dict[str, float]:
    was_training = model.training
    with torch.no_grad():
        loss = task.held_out_loss(model.eval())
    model.train(was_training)
    return {} if loss is None else {"held_out_loss": loss}


def _diverged(losses: Mapping[str, float], step: int, output: Path) -> TrainingError:
    hint = "start again with a lower --learning-rate"
    if (left := unfinished(output)) is not None:
        hint += f", into another folder: the weights of step {left[0]:,} are in {str(output)!r}"
    return TrainingError(f"the loss became {losses} at step {step:,}", hint=hint)


def what_is_left(output: Path) -> str:
    """Describe the state in a folder that an interrupted run can go on with."""
    if (left := unfinished(output)) is None:
        return "no state was saved"
    return (
        f"the state of step {left[0]:,} of {left[1]:,} is in {str(output)!r}: go on with the same command and --resume"
    )


def _update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and buffers; a shorter memory at the start, where weights move fast."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, weight)
            else:
                mine.copy_(theirs)
