"""The training loop: seeded, clipped, with a moving average of the weights, resumable bit for bit.

A `Task` says what one step does; the loop owns everything around it.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aigc_models.checkpoint import CONFIG_FILE, load_into, save_checkpoint
from aigc_models.layers import require_positive
from aigc_runtime.errors import CheckpointError, ConfigError
from aigc_runtime.strict_json import loads_strict

__all__ = ["LoopConfig", "Progress", "Task", "TrainingError", "learning_rate", "train"]

STATE_FILE = "training.safetensors"
STATE_JSON = "training.json"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called as progress(step, steps, losses)."""


class TrainingError(ConfigError):
    """The training diverged."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What every recipe sets.

    Attributes:
        steps: updates in all.
        batch: rows per step.
        learning_rate: peak.
        final_rate: share of the peak at the end of the cosine.
        warmup: steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        ema: decay of the moving average of the weights; 0 keeps none.
        save_every: steps between checkpoints of a run that can be resumed; 0 saves only at the end.
        seed: of weights, data order and noise.
    """

    steps: int
    batch: int
    learning_rate: float
    final_rate: float = 0.02
    warmup: int = 50
    max_grad_norm: float = 1.0
    ema: float = 0.0
    save_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("LoopConfig", steps=self.steps, batch=self.batch)
        if not 0 <= self.ema < 1 or not self.learning_rate > 0 or self.save_every < 0:
            raise ConfigError(
                f"LoopConfig: ema={self.ema}, learning_rate={self.learning_rate}, save_every={self.save_every}",
                hint="need 0 <= ema < 1, learning_rate > 0, save_every >= 0",
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
        """One update of every optimiser; returns the losses."""
        ...


def learning_rate(step: int, config: LoopConfig) -> float:
    """Share of the peak at `step`: linear warm-up, then half a cosine (Loshchilov & Hutter 2017, eq. 5).

    >>> learning_rate(0, LoopConfig(steps=100, batch=1, learning_rate=1.0, warmup=10))
    0.1
    >>> learning_rate(99, LoopConfig(steps=100, batch=1, learning_rate=1.0, warmup=10, final_rate=0.5)) < 0.51
    True
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = (1 + math.cos(math.pi * step / config.steps)) / 2
    return warm * (config.final_rate + (1 - config.final_rate) * cosine)


def train(
    task: Task,
    config: LoopConfig,
    *,
    model_config: dict[str, Any],
    output: Path,
    resume: bool,
    progress: Progress | None = None,
) -> nn.Module:
    """Run the loop to its end.

    Args:
        task: what is trained.
        config: how.
        model_config: written as the checkpoint's config.json.
        output: checkpoint folder; with `resume`, where an interrupted run of the same recipe left its state.
        resume: go on from that state.
        progress: called after every step.

    Returns:
        The model with its averaged weights (its own, where no average is kept), in evaluation mode.

    Raises:
        TrainingError: a loss is NaN or infinite.
        CheckpointError: nothing to resume from, or the state of another recipe.
    """
    rng = torch.Generator().manual_seed(config.seed)
    average = copy.deepcopy(task.model).requires_grad_(False) if config.ema else None
    peaks = {name: [g["lr"] for g in o.param_groups] for name, o in task.optimizers.items()}
    first = _restore(task, average, rng, config, model_config, output) if resume else 0
    task.model.train()
    started = time.process_time()
    for step in range(first, config.steps):
        share = learning_rate(step, config)
        for name, optimizer in task.optimizers.items():
            for group, peak in zip(optimizer.param_groups, peaks[name], strict=True):
                group["lr"] = peak * share
        losses = task.step(rng)
        if not all(math.isfinite(v) for v in losses.values()):
            raise TrainingError(
                f"the loss became {losses} at step {step + 1}",
                hint="lower the learning rate, or --resume earlier weights",
            )
        if average is not None:
            _update_average(average, task.model, config.ema, step)
        if progress is not None:
            progress(step + 1, config.steps, losses)
        if config.save_every and (step + 1) % config.save_every == 0 and step + 1 < config.steps:
            _save_state(task, average, rng, config, model_config, output, step + 1, time.process_time() - started)
    return (average if average is not None else task.model).eval()


def _update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and buffers; a shorter memory at the start, where weights move fast."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, weight)
            else:
                mine.copy_(theirs)


def _modules(task: Task, average: nn.Module | None) -> dict[str, nn.Module]:
    modules = {"model": task.model, **task.extra}
    return modules if average is None else {**modules, "average": average}


def _save_state(
    task: Task,
    average: nn.Module | None,
    rng: torch.Generator,
    config: LoopConfig,
    model_config: dict[str, Any],
    output: Path,
    step: int,
    cpu_seconds: float,
) -> None:
    tensors: dict[str, Tensor] = {"rng": rng.get_state()}
    for owner, module in _modules(task, average).items():
        tensors.update({f"module/{owner}/{k}": v for k, v in module.state_dict().items()})
    for name, optimizer in task.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer/{name}/{index}/{k}": v for k, v in values.items()})
    save_checkpoint(
        output,
        average if average is not None else task.model,
        model_config,
        extra_json={STATE_JSON: {"step": step, "cpu_seconds": cpu_seconds, "loop": config.__dict__}},
        extra_tensors={STATE_FILE: tensors},
    )


def _restore(
    task: Task,
    average: nn.Module | None,
    rng: torch.Generator,
    config: LoopConfig,
    model_config: dict[str, Any],
    output: Path,
) -> int:
    from safetensors import SafetensorError
    from safetensors.torch import load

    told, used = (_read_json(output, name) for name in (STATE_JSON, CONFIG_FILE))
    try:
        _require_same_settings(output, told["loop"], config.__dict__)
        _require_same_settings(output, used, json.loads(json.dumps(model_config)))
        tensors = load(_read_state(output, STATE_FILE))
        rng.set_state(tensors["rng"])
        for owner, module in _modules(task, average).items():
            load_into(module, _below(f"module/{owner}/", tensors), source=f"{STATE_FILE}: {owner}")
        for name, optimizer in task.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(f"optimizer/{name}/", tensors).items():
                index, field = key.split("/")
                state.setdefault(int(index), {})[field] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(told["step"])
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as err:
        raise CheckpointError(
            f"the training state in {str(output)!r} is damaged: {err}", hint="run without --resume to start again"
        ) from err


def _read_state(output: Path, name: str) -> bytes:
    try:
        return (output / name).read_bytes()
    except OSError as err:
        raise CheckpointError(
            f"nothing to resume in {str(output)!r}: no readable {name}",
            hint="run without --resume; interrupted runs leave their state there",
        ) from err


def _read_json(output: Path, name: str) -> Any:
    return loads_strict(_read_state(output, name), what=str(output / name), error=CheckpointError)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _require_same_settings(output: Path, told: dict[str, Any], asked: dict[str, Any]) -> None:
    changed = sorted(k for k in told.keys() | asked.keys() if told.get(k) != asked.get(k))
    if changed:
        raise CheckpointError(
            f"the run in {str(output)!r} used other settings: {', '.join(changed)}",
            hint="resume with the settings and the data it was started with",
        )
