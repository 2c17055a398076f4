"""The options of a training, checked by name before anything is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aigc_models.families.srvgg import MAX_UPSCALE
from aigc_models.training.every import Every
from aigc_runtime.errors import InputError

__all__ = ["TrainOptions"]

MAX_SIZE = 1024
MAX_WIDTH = 1024
MAX_BATCH_SIZE = 2**16
MAX_STEPS = 10**9
MAX_GAN_WEIGHT = 100
OF_SOME = ("width", "scale", "degradation", "gan_weight", "vae")
"""Options that mean something to some recipes alone."""


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
        scale: how many times as wide and high an upscaler makes pictures.
        degradation: what makes its small pictures, see `families.degradation.parse_degradation`.
        gan_weight: of the game against a patch discriminator, for an upscaler or an autoencoder; 0 plays none.
        vae: folder of the trained autoencoder on whose latents a UNet learns.
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
    scale: int | None = None
    degradation: str | None = None
    gan_weight: float | None = None
    vae: str | None = None
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
        _integer("scale", self.scale, 1, MAX_UPSCALE)
        weight = self.gan_weight
        if weight is not None and not (isinstance(weight, (int, float)) and 0 <= weight <= MAX_GAN_WEIGHT):
            raise InputError(f"gan_weight is {weight!r}", hint=f"must be from 0 to {MAX_GAN_WEIGHT}; 0.01 is usual")
        rate = self.learning_rate
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate <= 1 and math.isfinite(rate)):
            raise InputError(f"learning_rate is {rate!r}", hint="must be above 0 and at most 1; 0.001 is usual")
        _check_device(self.device)

    def of_images(self) -> dict[str, Any]:
        """Return the options about images that are set."""
        return self._set(("size", "channels", "background"))

    def of_data_and_loss(self) -> dict[str, Any]:
        """Return the options that are set and that a resumed run must agree on, but for those of the loop.

        An autoencoder may lie elsewhere then: its weights' digest is compared.
        """
        return {**self.of_images(), **self._set(("width", "scale", "degradation", "gan_weight"))}

    def require_only(self, recipe: str, taken: Sequence[str]) -> None:
        """Refuse options that mean nothing to a recipe.

        Args:
            recipe: its name.
            taken: those of `OF_SOME` that it takes.

        Raises:
            InputError: names the first that it does not take.
        """
        for name, value in self._set(OF_SOME).items():
            if name not in taken:
                raise InputError(f"{name} is {value!r}", hint=f"means nothing to the recipe {recipe}: leave it out")

    def _set(self, names: Sequence[str]) -> dict[str, Any]:
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
