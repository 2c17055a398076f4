"""The configuration of a StyleGAN2 generator.

References:
    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958).
    Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data" (arXiv:2006.06676): its PyTorch
    form, whose names of tensors are used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from aigc_models.families.layers import config_from_dict, config_to_dict, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["BASE_SIDE", "StyleGAN2Config"]

BASE_SIDE = 4
"""Side of the learned constant that synthesis begins with; every block after doubles it."""
MAX_SIDE = 4096
MAX_MAPPING_LAYERS = 64


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Config:
    """The configuration of a StyleGAN2 generator of the architecture "skip" (figure 7, upper row).

    Attributes:
        z_size: Z, size of the latents.
        w_size: W, size of what the mapping gives.
        num_classes: K; None for a generator without classes.
        embed_size: of the class embedding that is joined to the latents; None takes W. Meaningless without classes.
        hidden_size: between the layers of the mapping; None takes W.
        mapping_layers: layers of the mapping.
        channels: of the block of 4x4, of that of 8x8 and so on: one for each.
        image_channels: C of the image.
        filter_size: taps of the blur along each side, an even number.
        noise: whether every 3x3 convolution adds noise.
        mapping_rate: by which the mapping learns more slowly than the rest (StyleGAN, appendix C).
        clamp: activations are held within +- this, as a training in 16 bits does; None does not.
    """

    z_size: int = 512
    w_size: int = 512
    num_classes: int | None = None
    embed_size: int | None = None
    hidden_size: int | None = None
    mapping_layers: int = 8
    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128)
    image_channels: int = 3
    filter_size: int = 4
    noise: bool = True
    mapping_rate: float = 0.01
    clamp: float | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive(
            owner,
            z_size=self.z_size,
            w_size=self.w_size,
            num_classes=self.num_classes,
            embed_size=self.embed_size,
            hidden_size=self.hidden_size,
            mapping_layers=self.mapping_layers,
            image_channels=self.image_channels,
            filter_size=self.filter_size,
            **{f"channels[{n}]": count for n, count in enumerate(self.channels)},
        )
        if self.mapping_layers > MAX_MAPPING_LAYERS:
            raise ConfigError(
                f"{owner}.mapping_layers is {self.mapping_layers}", hint=f"must be at most {MAX_MAPPING_LAYERS}"
            )
        if len(self.channels) < 2 or self.image_size > MAX_SIDE:
            raise ConfigError(
                f"{owner}.channels has {len(self.channels)} numbers",
                hint=f"one for 4x4, one for 8x8 and so on: at least 2, and for at most {MAX_SIDE} pixels",
            )
        if self.filter_size % 2:
            raise ConfigError(f"{owner}.filter_size is {self.filter_size}", hint="must be an even number")
        for name in ("mapping_rate", "clamp"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{owner}.{name} is {value!r}", hint="must be a positive number")

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of every block's picture.

        >>> StyleGAN2Config(channels=(8, 8, 4)).sides
        (4, 8, 16)
        """
        return tuple(BASE_SIDE << level for level in range(len(self.channels)))

    @property
    def image_size(self) -> int:
        """Side of the image."""
        return BASE_SIDE << (len(self.channels) - 1)

    @property
    def num_ws(self) -> int:
        """Count the styles of an image: of its 3x3 convolutions, and of the last layer that gives colors.

        The layers that give colors before it share the style of the convolution that comes next.

        >>> StyleGAN2Config(channels=(8, 8, 4)).num_ws
        6
        """
        return 2 * len(self.channels)

    @property
    def noise_sides(self) -> tuple[int, ...]:
        """Side of the noise of every 3x3 convolution, in their order; empty without noise."""
        return (*self.sides[:1], *(side for side in self.sides[1:] for _ in range(2))) if self.noise else ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StyleGAN2Config:
        """Read plain JSON; raises ConfigError on an unknown or missing field."""
        return config_from_dict(cls, values)
