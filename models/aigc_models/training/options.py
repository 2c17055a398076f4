"""The options of a training, checked by name before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from aigc_models.training.every import Every
from aigc_runtime.errors import InputError

__all__ = ["TrainOptions"]

MAX_SIZE = 1024
MAX_WIDTH = 1024
MAX_BATCH_SIZE = 2**16
MAX_STEPS = 10**9


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `train`; None takes the recipe's own.

    Attributes:
        steps: updates in all.
        batch_size: rows per step.
        learning_rate: peak.
        size: side of the square images.
        channels: of the images, 1 or 3.
        background: behind transparent pixels: `white`, `black` or `#rrggbb`; None refuses them.
        width: channels of the model at the pictures' own size; those at smaller sizes follow from it.
        seed: of weights, data order and noise.
        device: `cpu`, `cuda` or `cuda:N`.
        resume: go on from an interrupted run's state in the output folder.
        save_every: how often the state is saved.
        sample_every: how often samples are drawn; None never.

    Raises:
        InputError: names the option, its value and what is allowed.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    size: int | None = None
    channels: int | None = None
    background: str | None = None
    width: int | None = None
    seed: int = 0
    device: str = "cpu"
    resume: bool = False
    save_every: Every = field(default_factory=lambda: Every(seconds=300))
    sample_every: Every | None = None

    def __post_init__(self) -> None:
        _integer("steps", self.steps, 1, MAX_STEPS)
        _integer("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        _integer("size", self.size, 1, MAX_SIZE)
        _integer("width", self.width, 1, MAX_WIDTH)
        _integer("seed", self.seed, 0, 2**63 - 1)
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels!r}", hint="must be 1 (gray) or 3 (RGB)")
        rate = self.learning_rate
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate <= 1 and math.isfinite(rate)):
            raise InputError(f"learning_rate is {rate!r}", hint="must be above 0 and at most 1; 0.001 is usual")
        _check_device(self.device)

    def of_images(self) -> dict[str, Any]:
        """Return the options about images and their models that are set."""
        names = ("size", "channels", "background", "width")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _integer(name: str, value: object, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        bound = f"from {low:,} to {high:,}" if high < 2**62 else f"from {low} to 2**63 - 1"
        raise InputError(f"{name} is {value!r}", hint=f"must be {bound}")


def _check_device(device: str) -> None:
    valid = ["cpu"]
    if torch.cuda.is_available():
        valid += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in valid:
        why = "" if len(valid) > 1 else "; PyTorch finds no CUDA device here"
        raise InputError(f"device is {device!r}", hint=f"valid: {', '.join(valid)}{why}")
